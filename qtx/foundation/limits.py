"""Limits of options, each declared once, where the option is declared: `steps: Annotated[int, at_least(1)] = 1000`.

An option that may be None has its limit for all other values: `Annotated[float | None, positive()]`.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import typing
from collections.abc import Callable, Collection
from typing import Any

from qtx.foundation.errors import QtxError, unknown


@dataclasses.dataclass(frozen=True)
class Limit:
    """A `Limit` says which values an option may have.

    Attributes:
      allows: says whether a value is one of them.
      refusal: makes the error about an option's name and a value that is none of them.
    """

    allows: Callable[[Any], bool]
    refusal: Callable[[str, Any], QtxError]


def within(interval: str, expected: str = "", remedy: str = "") -> Limit:
    """Allows the numbers of an interval, and never NaN.

    Args:
      interval: both ends, a bracket beside one that is allowed and a parenthesis beside one that is not: `"[0, 1)"`.
      expected: what messages say was expected; empty: "a number in [0, 1)", or "0 to 1" if both ends are allowed.
      remedy: what follows in messages: "e.g. 0.9", "or None for all".
    """
    low, high = map(float, interval[1:-1].split(", "))
    after = operator.le if interval[0] == "[" else operator.lt
    before = operator.le if interval[-1] == "]" else operator.lt
    usual = f"{low:g} to {high:g}" if after is before is operator.le else f"a number in {interval}"
    expected = ", ".join(filter(None, (expected or usual, remedy)))
    return Limit(
        lambda value: after(low, value) and before(value, high),
        lambda name, value: QtxError(f"{name} is {value}: expected {expected}"),
    )


def at_least(low: int, remedy: str = "") -> Limit:
    """Allows the numbers from `low` on; `remedy` as in `within`."""
    return within(f"[{low}, inf]", f"at least {low}" if low else "0 or more", remedy)


def positive(remedy: str = "") -> Limit:
    """Allows the finite numbers above 0; `remedy` as in `within`."""
    return within("(0, inf)", "a positive number", remedy)


def one_of(names: Collection[str], kind: str = "") -> Limit:
    """Allows the names of a registry, at the time when a value is checked; `kind` is what messages call them, empty:
    the option's name."""
    return Limit(lambda value: value in names, lambda name, value: unknown(kind or name, value, names))


@functools.cache
def limits(cls: type) -> dict[str, Limit]:
    """Returns the limits of a dataclass's options, by name. An option that a subclass declares anew, for another
    default, keeps its limit unless the subclass declares another."""
    found: dict[str, Limit] = {}
    for base in reversed(cls.__mro__):
        for name, hint in typing.get_type_hints(base, include_extras=True).items():
            for limit in (x for x in getattr(hint, "__metadata__", ()) if isinstance(x, Limit)):
                found[name] = limit
    return found


def check(options: Any, prefix: str = "") -> None:
    """Raises QtxError if an option of a dataclass instance has a value that its limit does not allow; `prefix` stands
    before the options' names in messages."""
    cls: type = type(options)
    for name, limit in limits(cls).items():
        value = getattr(options, name)
        if value is not None and not limit.allows(value):
            raise limit.refusal(prefix + name, value)


class Checked:
    """The base of dataclasses whose options have limits: an instance with another value cannot be made. A class with
    more to check extends `__post_init__`.

    Raises:
      QtxError: for a value that its option's limit does not allow.
    """

    def __post_init__(self):
        check(self)
