"""What models, training, quantization and analysis pass to each other of the data."""

from __future__ import annotations

from typing import Any

# Name -> array `[B, ...]` (of a single example, without B): of NumPy as the data give it, of JAX once it is on the
# devices. What names there are depends on the objective.
Batch = dict[str, Any]
