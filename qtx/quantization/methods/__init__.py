"""Post-training quantization methods. A new one is a file here and a line in `METHODS`."""

from qtx.quantization.methods.base import Method, Static
from qtx.quantization.methods.gptq import Gptq
from qtx.quantization.methods.hadamard import Hadamard
from qtx.quantization.methods.per_token import PerToken
from qtx.quantization.methods.smoothquant import SmoothQuant

METHODS: dict[str, type[Method]] = {
    "static": Static,
    "per_token": PerToken,
    "smoothquant": SmoothQuant,
    "hadamard": Hadamard,
    "gptq": Gptq,
}

__all__ = ["METHODS", "Gptq", "Hadamard", "Method", "PerToken", "SmoothQuant", "Static"]
