"""Quantization-aware training: a model run through fake-quantizers that learn."""
