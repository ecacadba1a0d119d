"""A shift z `[D]`: the integers hold x - z. The product (x - z) W lacks z W, which is added as a bias is."""

from __future__ import annotations

from qtx.quantization.basis.base import Kind

SHIFT = Kind(1, enter=lambda x, z: x - z, leave=lambda x, z: x + z)
