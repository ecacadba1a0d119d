"""A scale s `[D]`: the integers hold x / s and s W."""

from __future__ import annotations

from qtx.quantization.basis.base import Kind

SMOOTH = Kind(
    1,
    enter=lambda x, s: x / s,
    leave=lambda x, s: x * s,
    enter_weight=lambda w, s: w * s[:, None],
    leave_weight=lambda w, s: w / s[:, None],
)
