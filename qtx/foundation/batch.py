"""The type of the batches that models, training, quantization and analysis pass to each other."""

from __future__ import annotations

from typing import Any

# Name -> array `[B, ...]` (without B for a single example): NumPy's as the data give it, JAX's once it is on the
# devices. Which names a batch has depends on the objective.
Batch = dict[str, Any]
