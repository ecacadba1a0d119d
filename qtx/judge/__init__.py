"""An independent judge: exported models of texts in somebody else's int8, by ONNX Runtime's quantizer instead of qtx's.

    pip install torch transformers onnx onnxruntime onnxscript
    python -m qtx.judge runs/minilm-2l/export/huggingface runs/healed/export/huggingface

Each folder is loaded by `transformers` (the code that qtx wrote into it is run, no other), exported to ONNX by
`torch.onnx`, and quantized by `quantize_static` with its defaults: activations (asymmetric) and weights (symmetric) on
static int8 grids, their ranges from minimum to maximum over 64 calibration texts; the inputs and outputs of every
operator that it knows, sums and norms of the residual stream included. Weights get one grid per tensor or, in a second
line, per channel. The int8 model runs on integers wherever ONNX Runtime has kernels for them.

Of 128 other texts (of all that there are, if a text is shorter), all of 128 tokens with the first folder's default
prompt, each line has the mean cosine of the embeddings (of the last hidden states, as the first folder's modules say,
dense layers in floating point, or else their mean): int8 to the same model's floating point, and both to the first
folder's floating point; and, as `centred`, the cosine of int8's to the same model's in floating point over all texts
together, without the mean over the texts, for embeddings that all point one way have a cosine near 1 to anything that
does. Of a classifier, a token classifier or a reader of answers, every cosine is that of its logits, as in `centred`.
It also counts what is on grids: activations by the operator that makes them, constants (weights, biases, gains)
by type.
"""
