"""Frozen dataclasses to `ml_collections.ConfigDict` sections and back, with errors that name the key.

Every group of options is a frozen dataclass declared beside the code that uses it and validated in its `__post_init__`.
A config file shows it to the user as a `ConfigDict` section; `build` turns the (possibly overridden) section back.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from ml_collections import ConfigDict, config_dict

from qtx.errors import QtxError, unknown

Options = TypeVar("Options")


def field_types(cls: type) -> dict[str, tuple[type, bool]]:
    """Name to (type, may be None) of every field of a dataclass, e.g. `float | None` to `(float, True)`."""
    result = {}
    for name, hint in typing.get_type_hints(cls).items():
        alternatives = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        concrete = [typing.get_origin(a) or a for a in alternatives if a is not type(None)]
        if name in {f.name for f in dataclasses.fields(cls)}:
            result[name] = (concrete[0], len(concrete) < len(alternatives))
    return result


def section(options: Any) -> ConfigDict:
    """The `ConfigDict` that shows a dataclass instance; a field that is None stays overridable with its type."""
    result = ConfigDict()
    for name, (kind, optional) in field_types(type(options)).items():
        value = getattr(options, name)
        if dataclasses.is_dataclass(value):
            result[name] = section(value)
        elif value is None:
            result[name] = config_dict.placeholder(kind)
        else:
            result[name] = value
            if optional:
                result[name] = config_dict.FieldReference(value, field_type=kind)
    return result


def build(cls: type[Options], values: ConfigDict | dict, where: str) -> Options:
    """`cls(**values)`, checking names and types.

    Args:
      cls: a frozen dataclass.
      values: the config section; keys left out take the dataclass's defaults.
      where: the section's path in the config, for messages, e.g. `"model"`.

    Raises:
      QtxError: for an unknown key (naming the nearest), a value of the wrong type, or options that `cls` refuses.
    """
    known = field_types(cls)
    arguments = {}
    for name, value in dict(values).items():
        if name not in known:
            raise unknown(f"key in config.{where}:", name, known)
        kind, optional = known[name]
        if dataclasses.is_dataclass(kind) and not dataclasses.is_dataclass(value):
            value = build(kind, value, f"{where}.{name}")
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if kind is tuple and isinstance(value, list):
            value = tuple(value)
        wrong_bool = isinstance(value, bool) and kind in (int, float)
        if not (value is None and optional) and (wrong_bool or not isinstance(value, kind)):
            raise QtxError(
                f"config.{where}.{name} is {value!r}: expected {kind.__name__}{' or None' if optional else ''}"
            )
        arguments[name] = value
    try:
        return cls(**arguments)
    except QtxError as error:
        raise QtxError(f"config.{where}: {error}") from None
