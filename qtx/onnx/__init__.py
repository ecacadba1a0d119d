"""Models as ONNX graphs: a model is traced by JAX once, and each operation of the trace becomes nodes of the graph.

So a graph needs no description of the models, and what is written for a variant or a family in JAX is exported as it
is. Only what a runtime has a faster form for is kept whole in the trace (`marks`): dense layers, norms, look-ups, the
softmax, the products of attention, and sites, which are quantized where a recipe says so.
"""
