"""qtx: transformers in JAX/Flax that survive integer quantization.

In Python, ten names: `load` a model, then `diagnose`, `quantize`, `heal`, `encode`, `export` and `evaluate` it (they
are its methods too); `train`, `compare` and `report` experiments. `qtx.api.names` has them; it is imported, with JAX,
when the first of them is used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["compare", "diagnose", "encode", "evaluate", "export", "heal", "load", "quantize", "report", "train"]


def __getattr__(name: str) -> Any:
    """Returns one of the ten names."""
    if name not in __all__:
        raise AttributeError(f"module 'qtx' has no attribute {name!r}")
    return getattr(importlib.import_module("qtx.api.names"), name)


def __dir__() -> list[str]:
    """Returns the names of the package, for completion."""
    return [*globals(), *__all__]
