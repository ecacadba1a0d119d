"""Models from and to other libraries' formats."""

from qtx.interop.huggingface import load, save

__all__ = ["load", "save"]
