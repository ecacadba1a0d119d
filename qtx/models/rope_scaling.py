"""Scalings of rotary positions, which let a model that was trained on short texts read longer ones. A new one is a
class here and a line in `SCALINGS`."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Protocol

import numpy as np

from qtx.foundation.limits import Checked, at_least, positive
from qtx.foundation.variants import make_variant


class Scaling(Protocol):
    """A `Scaling` changes the angles of rotary positions."""

    def scaled(self, angles: np.ndarray, base: float) -> np.ndarray:
        """Returns the angles per position, `[R / 2]`, given those without scaling, base^(-2 i / R)."""

    @property
    def size(self) -> float:
        """Returns the factor on turned queries and keys."""


@dataclasses.dataclass(frozen=True)
class Linear(Checked):
    """Positions are divided by `factor` (Chen et al. 2023, arXiv 2306.15595)."""

    factor: Annotated[float, at_least(1)]

    def scaled(self, angles, base):
        return angles / self.factor

    @property
    def size(self):
        return 1.0


@dataclasses.dataclass(frozen=True)
class Llama3(Checked):
    """Long waves are made `factor` times as long, short ones stay, and those between are interpolated (Llama 3.1).

    Attributes:
      factor: by how much contexts become longer.
      low, high: waves of which fewer than `low` fit into the original context are long, more than `high` short.
      original: the original context, in tokens.
    """

    factor: Annotated[float, at_least(1)]
    low: Annotated[float, positive()]
    high: Annotated[float, positive()]
    original: Annotated[int, at_least(1)]

    def scaled(self, angles, base):
        fit = self.original * angles / (2 * math.pi)
        kept = np.clip((fit - self.low) / (self.high - self.low), 0, 1)
        return angles * (kept + (1 - kept) / self.factor)

    @property
    def size(self):
        return 1.0


@dataclasses.dataclass(frozen=True)
class Yarn(Checked):
    """YaRN (Peng et al. 2023, arXiv 2309.00071): dimensions that turn fewer than `slow` times within the original
    context are slowed down by `factor`, those that turn more than `fast` times stay, with a ramp over the dimensions
    between.

    Attributes:
      factor: by how much contexts become longer.
      original: the original context, in tokens.
      fast, slow: turns within it.
      whole: whether the ramp begins and ends at whole dimensions.
      magnitude: the factor on turned queries and keys; None: .1 ln(factor) + 1.
    """

    factor: Annotated[float, at_least(1)]
    original: Annotated[int, at_least(1)]
    fast: Annotated[float, positive()] = 32.0
    slow: Annotated[float, positive()] = 1.0
    whole: bool = True
    magnitude: Annotated[float | None, positive()] = None

    def scaled(self, angles, base):
        rotated = 2 * len(angles)

        def dimension(turns: float) -> float:
            return rotated * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(base))

        low, high = dimension(self.fast), dimension(self.slow)
        low, high = (math.floor(low), math.ceil(high)) if self.whole else (low, high)
        low, high = max(low, 0), min(high, rotated - 1)
        slowed = np.clip((np.arange(len(angles)) - low) / ((high - low) or 0.001), 0, 1)
        return angles * (1 - slowed + slowed / self.factor)

    @property
    def size(self):
        return 0.1 * math.log(self.factor) + 1 if self.magnitude is None else self.magnitude


SCALINGS: dict[str, type] = {"linear": Linear, "llama3": Llama3, "yarn": Yarn}
"""Scalings by their names in config.json."""


def scaling_of(text: str) -> Scaling | None:
    """Returns the scaling that a text names, as in `"linear,factor=4"`; None for an empty text.

    Raises:
      QtxError: for an unknown scaling or option, or one that is missing.
    """
    return make_variant(SCALINGS, "rotary scaling", text) if text else None
