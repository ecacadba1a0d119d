"""Import and export of models in other libraries' formats."""

from qtx.interop.huggingface import load, save

__all__ = ["load", "save"]
