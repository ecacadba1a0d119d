"""Random access to what sources hold, and the endless shuffled order in which training reads it."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from qtx.foundation.errors import QtxError

if TYPE_CHECKING:
    import grain


class Records(Protocol):
    """`Records` give random access to what a source holds, as a numpy array does."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Concatenated:
    """The records of several parts, one after the other."""

    parts: Sequence[Records] = field(repr=False)

    @cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(map(len, self.parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Any:
        part = bisect.bisect_right(self._ends, index)
        return self.parts[part][index - self._ends[part] + len(self.parts[part])]


@dataclass(frozen=True)
class Shuffled:
    """`Shuffled` puts records into a random order, always the same: a folder's records lie class by class, so that the
    first of them would be no fair sample."""

    records: Records = field(repr=False)

    @cached_property
    def _order(self) -> np.ndarray:
        return np.random.default_rng(0).permutation(len(self.records))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Any:
        return self.records[int(self._order[index])]


@dataclass(frozen=True)
class Mixture(Concatenated):
    """Parts that training draws from by weight, whatever their sizes: each is shuffled, and repeats, on its own.

    Attributes:
      weights: how often each part is drawn from, in proportion.
    """

    weights: Sequence[float]


def check_weights(weights: Sequence[float], parts: int) -> None:
    """Raises QtxError unless there is one positive finite weight for each of the parts."""
    if len(weights) != parts:
        raise QtxError(f"weights has {len(weights)} numbers for {parts} corpora: expected one for each")
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise QtxError(f"weights has {weight!r}: expected positive numbers, e.g. (1.0, 3.0)")


def endless(records: Records, seed: int) -> grain.MapDataset:
    """Repeats records without end, every part of them once per epoch in a new order, which `seed` alone decides."""
    import grain

    if not isinstance(records, Mixture):
        return grain.MapDataset.source(records).seed(seed).shuffle().repeat()
    # Each part has its own seed, so that two parts of the same size differ in their order.
    seeds = np.random.SeedSequence(seed).generate_state(len(records.parts))
    parts = [
        grain.MapDataset.source(part).seed(int(own)).shuffle().repeat()
        for part, own in zip(records.parts, seeds, strict=True)
    ]
    return grain.MapDataset.mix(parts, records.weights).seed(seed)
