"""Post-training quantization methods. A new one is a file here and a line in `METHODS`."""

from qtx.quantization.methods.base import Static

METHODS = {
    "static": Static,
}

__all__ = ["METHODS", "Static"]
