"""This module turns values of JSON types, and arrays, into the dataclass that they are meant to be."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any


def shaped(value: Any, hint: Any) -> Any:
    """Returns `value` as `hint` says: a dict as a dataclass of just its fields, a list as a tuple, the rest unchanged.

    Args:
      value: the value that was read.
      hint: a dataclass, `dict[str, X]`, `list[X]`, `tuple[X, ...]`, `X | None`, or a class; float takes integers too.

    Raises:
      TypeError: if the value is of another type anywhere.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None and type(None) in arguments else shaped(value, arguments[0])
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        if not isinstance(value, dict) or value.keys() != hints.keys():
            raise TypeError(f"fields other than {', '.join(hints)}")
        return hint(**{name: shaped(value[name], hints[name]) for name in hints})  # type: ignore[operator]
    if origin is dict and isinstance(value, dict):
        return {key: shaped(item, arguments[1]) for key, item in value.items()}
    if origin in (list, tuple) and isinstance(value, list):
        return origin(shaped(item, arguments[0]) for item in value)
    kinds = (int, float) if hint is float else hint
    if origin is not None or isinstance(value, bool) or not isinstance(value, kinds):
        raise TypeError(f"{type(value).__name__} in the place of {hint}")
    return value
