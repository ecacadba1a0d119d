"""Integer execution: a calibrated model whose matrix products run int8 x int8 -> int32."""

from qtx.quantization.integer.convert import convert
from qtx.quantization.integer.files import load, save
from qtx.quantization.integer.model import IntegerModel

__all__ = ["IntegerModel", "convert", "load", "save"]
