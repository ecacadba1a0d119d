"""Variants as text: a registered name, and options after commas: `gptq,damping=0.02`.

The one notation for whatever a config names: attention, methods, range estimators, penalties.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from qtx.foundation.config import read_section, registered_name
from qtx.foundation.errors import QtxError, lookup

V = TypeVar("V")


def split_variant(text: str, kind: str) -> tuple[str, dict[str, Any]]:
    """The name and the options of a variant's text.

    A value is read as Python's literals are; what is none is a string: `search=golden`.

    Args:
      text: e.g. `"clipped_softmax,alpha=4"`.
      kind: what it is, for messages, e.g. `"attention variant"`.

    Raises:
      QtxError: for an option without a value, or given twice.
    """
    name, *options = (part.strip() for part in text.split(","))
    values: dict[str, Any] = {}
    for option in options:
        key, equals, value = (part.strip() for part in option.partition("="))
        if not equals:
            raise QtxError(f"{kind} {text!r}: {option!r} is not an option=value")
        if key in values:
            raise QtxError(f"{kind} {text!r} gives {key} twice: leave one out")
        try:
            values[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            values[key] = value
    return name, values


def join_variant(name: str, options: Mapping[str, Any]) -> str:
    """The text of a name and options: the inverse of `split_variant`."""
    return ",".join((name, *(f"{option}={value}" for option, value in options.items())))


def make_variant(registry: Mapping[str, Callable[..., V]], kind: str, text: str) -> V:
    """The instance that a text names, of a registry of frozen dataclasses.

    Raises:
      QtxError: for an unknown name (naming the nearest), an unknown option, or a bad value.
    """
    name, values = split_variant(text, kind)
    return read_section(lookup(registry, kind, name), values, f"{kind} {text!r}")  # type: ignore[arg-type]


def variant_text(registry: Mapping[str, Any], variant: Any) -> str:
    """The text that names an instance, the inverse of `make_variant`: only options that are not at their defaults."""
    values = ((field, getattr(variant, field.name)) for field in dataclasses.fields(variant))
    options = {field.name: value for field, value in values if value != field.default}
    return join_variant(registered_name(registry, type(variant)), options)
