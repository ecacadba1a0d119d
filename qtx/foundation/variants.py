"""Variants as text: a registered name, then options after commas, as in `gptq,damping=0.02`.

Configs name attention, methods, range estimators and penalties in this one notation; a list has `+` between them.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from qtx.foundation.config import read_section, registered_name
from qtx.foundation.errors import QtxError, lookup

V = TypeVar("V")


def split_variant(text: str, kind: str) -> tuple[str, dict[str, Any]]:
    """Splits a variant's text into its name and its options.

    A value is read as a Python literal; a value that is no literal is a string: `search=golden`.

    Args:
      text: the variant's text, e.g. `"clipped_softmax,alpha=4"`.
      kind: what messages call the variant, e.g. `"attention variant"`.

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
    """Returns the text of a name and options: the inverse of `split_variant`."""
    return ",".join((name, *(f"{option}={value}" for option, value in options.items())))


def make_variant(registry: Mapping[str, Callable[..., V]], kind: str, text: str) -> V:
    """Makes the instance that a text names, from a registry of frozen dataclasses.

    Raises:
      QtxError: for an unknown name (naming the nearest), an unknown option, or a bad value.
    """
    name, values = split_variant(text, kind)
    return read_section(lookup(registry, kind, name), values, f"{kind} {text!r}")  # type: ignore[arg-type]


def make_variants(registry: Mapping[str, Callable[..., V]], kind: str, text: str) -> tuple[V, ...]:
    """Makes the instances that a list names, with `+` between the variants' texts: `smoothquant,alpha=.6 + gptq`.

    Raises:
      QtxError: as `make_variant` does.
    """
    # A plus within a number, as in 1e+9, precedes a digit.
    return tuple(make_variant(registry, kind, one.strip()) for one in re.split(r"\+(?=\s*[^\s\d.]|\s*$)", text))


def variant_text(registry: Mapping[str, Any], variant: Any) -> str:
    """Returns the text that names an instance, without options at their defaults: the inverse of `make_variant`."""
    values = ((field, getattr(variant, field.name)) for field in dataclasses.fields(variant))
    options = {field.name: value for field, value in values if value != field.default}
    return join_variant(registered_name(registry, type(variant)), options)
