"""The grids of weights and sites, in integers of ONNX's types."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Grid:
    """A grid of integers: value = scale * (integer - zero_point), low <= integer <= high.

    Attributes:
      scale: float32, `()`, or `[F]` for a kernel `[D, F]` with a grid for each output.
      zero_point: in the type that holds the integers, of scale's shape.
      low, high: the ends.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    low: int
    high: int

    @property
    def whole(self) -> bool:
        """Says whether the grid has all the integers of its type."""
        ends = np.iinfo(self.zero_point.dtype)
        return (self.low, self.high) == (ends.min, ends.max)

    @property
    def unsigned(self) -> Grid:
        """Returns the grid of the same values whose integers have no sign."""
        kind = self.zero_point.dtype
        if kind.kind == "u":
            return self
        shift = -np.iinfo(kind).min
        zero_point = (self.zero_point.astype(np.int32) + shift).astype(f"uint{8 * kind.itemsize}")
        return Grid(self.scale, zero_point, self.low + shift, self.high + shift)

    def integers(self, x: np.ndarray) -> np.ndarray:
        """Returns the integers of values."""
        found = np.rint(np.asarray(x, np.float32) / self.scale) + self.zero_point
        return np.clip(found, self.low, self.high).astype(self.zero_point.dtype)

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """Returns the values on the grid that are nearest to values."""
        return (self.integers(x).astype(np.int32) - self.zero_point.astype(np.int32)) * self.scale


Grids = Mapping[tuple[str, int | None], Grid]
"""Grids by the path of a weight or a site, and the number of the layer; None: it is in no layer."""


@dataclasses.dataclass(frozen=True)
class Rounded:
    """A tensor that a graph rounds to a grid.

    Attributes:
      label: of the tensor, as `layers.0.mlp.out`.
      path: of the weight or the site.
      grid: the grid.
      weight: whether it is a weight.
    """

    label: str
    path: str
    grid: Grid
    weight: bool
