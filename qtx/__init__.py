"""qtx: transformers in JAX/Flax that survive integer quantization."""

__version__ = "0.1.0"
