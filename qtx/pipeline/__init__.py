"""From an experiment to its results: prepare, train, quantize, measure, compare."""
