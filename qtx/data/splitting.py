"""The held-out split, chosen by a stable hash of each record's name, so that it depends on nothing but the names."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from qtx.foundation.errors import QtxError

DEFAULT_FRACTION = 0.05
"""The share of texts to hold out where an option leaves it open."""

Record = TypeVar("Record")


def held_out_names(names: Collection[str], fraction: float) -> set[str]:
    """Returns the names to hold out: a share `fraction` of the distinct ones, rounded up, by the smallest SHA-256.

    Args:
      names: in any order; equal names stay together.
      fraction: share of the names, above 0 and at most 0.5, so that two names or more never leave a side empty.

    Raises:
      QtxError: for a fraction out of range.
    """
    ranked = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())
    return set(ranked[: held_out_count(len(ranked), fraction)])


def split_by_name(
    records: Sequence[Record], name: Callable[[Record], str], fraction: float, what: str, remedy: str
) -> tuple[list[Record], list[Record]]:
    """Splits records into training and held-out ones by `held_out_names` of their names.

    Args:
      records: records of any kind.
      name: gives a record's name; where that is the record's text, copies stay on one side.
      fraction: see `held_out_names`.
      what: what to call a record in the message, e.g. `"document"`.
      remedy: what to do if there is only one name, which cannot be split.

    Raises:
      QtxError: if there is only one distinct name.
    """
    names = set(map(name, records))
    if len(names) < 2:
        raise QtxError(f"the held-out split is empty: there is only one {what} to split; {remedy}")
    held_out = held_out_names(names, fraction)
    return [x for x in records if name(x) not in held_out], [x for x in records if name(x) in held_out]


def held_out_count(count: int, fraction: float) -> int:
    """Returns a share `fraction` of `count` records, rounded up; arguments and errors are those of `held_out_names`."""
    if not 0.0 < fraction <= 0.5:
        raise QtxError(f"held_out_fraction is {fraction}: expected a number above 0 and at most 0.5, e.g. 0.1")
    return math.ceil(round(fraction * count, 9))
