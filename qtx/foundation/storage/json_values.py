"""Single values of a JSON file, each of which is what is expected, or is told in one line that names its key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qtx.foundation.errors import QtxError

LARGEST = 65_535
"""The largest absolute value of the numbers of a list."""


def one_of(source: str, name: str, value: Any, known: Iterable[Any]) -> Any:
    """Returns `value`, the value of the key `name` in the file `source`; raises QtxError if it is none of `known`."""
    known = list(known)
    if value not in known:
        raise QtxError(f"{source}: {name} is {str(value)[:100]!r}; qtx supports {', '.join(map(str, known))}")
    return value


def number(source: str, name: str, value: Any, most: float = 255.0) -> float:
    """Returns a number above 0; raises QtxError if `value` is none, or more than `most`."""
    if not isinstance(value, int | float) or not 0.0 < value <= most:
        raise QtxError(f"{source}: {name} is {str(value)[:100]}: expected a number above 0 and at most {most:g}")
    return float(value)


def numbers(source: str, name: str, value: Any) -> list[float]:
    """Returns one number, or several, as a list; raises QtxError if `value` is anything else."""
    found = list(value) if isinstance(value, list | tuple) else [value]
    if not found or not all(isinstance(x, int | float) and abs(x) <= LARGEST for x in found):
        raise QtxError(f"{source}: {name} is {str(value)[:100]}: expected a number per channel")
    return list(map(float, found))
