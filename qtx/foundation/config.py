"""Frozen dataclasses to `ml_collections.ConfigDict` sections and back, with errors that name the key.

Every group of options is a frozen dataclass declared beside the code that uses it and validated in its `__post_init__`.
A config file shows it to the user as a `ConfigDict` section; `read_section` turns the (possibly overridden) section
back. A field that holds one of a registry's variants, a `Choice`, is flattened there: the variant's name, and beside it
the options of all of them.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict, config_dict

from qtx.foundation.errors import QtxError, lookup, unknown

Options = TypeVar("Options")
CHOICE = "qtx.choice"


@dataclasses.dataclass(frozen=True)
class Choice:
    """That a field holds an instance of one of a registry's dataclasses, whose fields are its options.

    Attributes:
      registry: name to class.
      prefix: of the options in the flat section.
      none: the name of None, if the field may be that.
      kind: what messages call the variants where one is unknown; None: the field's name.
    """

    registry: Mapping[str, type]
    prefix: str = ""
    none: str | None = None
    kind: str | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """Of the dataclass field."""
        return {CHOICE: self}

    def options(self, name: str) -> dict[str, type]:
        """The options of a variant, as they appear in the flat section, and their types."""
        if name == self.none:
            return {}
        return {self.prefix + option: kind for option, (kind, _) in field_types(self.registry[name]).items()}

    def names(self) -> list[str]:
        """Of all variants."""
        return [*self.registry, *([] if self.none is None else [self.none])]

    def name_of(self, variant: Any) -> str:
        """The name of an instance."""
        if variant is None and self.none is not None:
            return self.none
        return registered_name(self.registry, type(variant))

    def all_options(self) -> dict[str, type]:
        """Of all variants.

        Raises:
          QtxError: if two of them have an option of the same name and another type, or None is no way to say that an
            option is not given.
        """
        result: dict[str, type] = {}
        for name, cls in self.registry.items():
            kinds = field_types(cls)
            for field in dataclasses.fields(cls):
                option, (kind, optional) = self.prefix + field.name, kinds[field.name]
                if optional and field.default is not None:
                    raise QtxError(
                        f"option {field.name} of {name!r} may be None and is {field.default!r} by default: None is "
                        "what is not given, so make it the default, or leave it out"
                    )
                if result.setdefault(option, kind) is not kind:
                    raise QtxError(
                        f"option {option} of {name!r} is {kind.__name__}, and {result[option].__name__} of another: "
                        "give it another name, or the same type"
                    )
        return result

    def given(self, variant: Any, defaults: bool) -> dict[str, Any]:
        """The options of an instance, None for those that are not its own or, without `defaults`, at their default."""
        result = dict.fromkeys(self.all_options())
        for field in () if variant is None else dataclasses.fields(variant):
            value = getattr(variant, field.name)
            if defaults or value != field.default:
                result[self.prefix + field.name] = value
        return result

    def make(self, field: str, name: str, given: Mapping[str, Any]) -> Any:
        """The instance of a variant with the options that are not None.

        Raises:
          QtxError: for an unknown variant, an option that it does not take, or a bad value.
        """
        lookup(dict.fromkeys(self.names()), self.kind or field, name)
        own = self.options(name)
        for option, value in given.items():
            if value is not None and option not in own:
                owners = [other for other in self.registry if option in self.options(other)]
                raise QtxError(
                    f"{option} is set, but {field} {name!r} does not take it: it belongs to {', '.join(owners)}"
                )
        options = {option.removeprefix(self.prefix): given[option] for option in own if given.get(option) is not None}
        if name == self.none:
            return None
        missing = [f.name for f in dataclasses.fields(self.registry[name]) if _required(f) and f.name not in options]
        if missing:
            raise QtxError(f"{field} {name!r} needs {', '.join(missing)}: give a value, or the option a default")
        return self.registry[name](**options)


def _required(field: dataclasses.Field) -> bool:
    return field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def registered_name(registry: Mapping[str, Any], cls: type) -> str:
    """The name under which a registry has a class.

    Raises:
      QtxError: if it has it under none.
    """
    for name, registered in registry.items():
        if registered is cls:
            return name
    raise QtxError(f"{cls.__name__} has no name: enter it in the registry of {', '.join(registry)}")


def choices(cls: type) -> dict[str, Choice]:
    """The fields of a dataclass that hold a variant."""
    return {field.name: field.metadata[CHOICE] for field in dataclasses.fields(cls) if CHOICE in field.metadata}


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """The annotations of a class, evaluated once: they are text (PEP 563)."""
    return typing.get_type_hints(cls)


def field_types(cls: type) -> dict[str, tuple[type, bool]]:
    """Name to (type, may be None) of every field of a dataclass, e.g. `float | None` to `(float, True)`; a choice is a
    name, and options that may be None.

    Raises:
      QtxError: if an option of a choice has the name of a field, or of another choice's option.
    """
    result: dict[str, tuple[type, bool]] = {}
    hints, chosen = type_hints(cls), choices(cls)
    for name in (field.name for field in dataclasses.fields(cls)):
        if name in chosen:
            result[name] = (str, False)
            options = {option: (kind, True) for option, kind in chosen[name].all_options().items()}
            for option in options:
                if option in result or option in hints:
                    raise QtxError(f"{option} is an option of a {name} and of something else beside it: rename it")
            result |= options
            continue
        hint = hints[name]
        union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        alternatives = typing.get_args(hint) if union else (hint,)
        concrete = [typing.get_origin(a) or a for a in alternatives if a is not type(None)]
        if not isinstance(concrete[0], type):
            raise QtxError(f"{cls.__name__}.{name} is of type {hint}: expected a class, such as float, or that or None")
        result[name] = (concrete[0], len(concrete) < len(alternatives))
    return result


def flattened(options: Any, defaults: bool = True) -> dict[str, Any]:
    """A dataclass instance as nested dictionaries, choices flattened: what a record of it holds.

    Args:
      options: it.
      defaults: give the options of a choice that are at their defaults too, and not as None.
    """
    result: dict[str, Any] = {}
    chosen = choices(type(options))
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in chosen:
            choice = chosen[field.name]
            result |= {field.name: choice.name_of(value), **choice.given(value, defaults)}
        else:
            result[field.name] = flattened(value, defaults) if dataclasses.is_dataclass(value) else value
    return result


def section(options: Any) -> ConfigDict:
    """The `ConfigDict` that shows a dataclass instance; a field that is None stays overridable with its type, and so
    are the options of a choice that are at their defaults, which another variant may not have."""
    shown, result = flattened(options, defaults=False), ConfigDict()
    for name, (kind, optional) in field_types(type(options)).items():
        value = shown[name]
        if dataclasses.is_dataclass(kind):
            result[name] = section(getattr(options, name))
        elif value is None:
            result[name] = config_dict.placeholder(kind)
        else:
            result[name] = value
            if optional:
                result[name] = config_dict.FieldReference(value, field_type=kind)
    return result


def read_section(cls: type[Options], given: ConfigDict | dict, where: str) -> Options:
    """`cls(**given)`, checking names and types.

    Args:
      cls: a frozen dataclass.
      given: the config section; keys left out take the dataclass's defaults.
      where: the section's path, for messages, e.g. `"config.model"`.

    Raises:
      QtxError: for an unknown key (naming the nearest), a value of the wrong type, or options that `cls` refuses.
    """
    known = field_types(cls)
    arguments = {}
    for name, value in dict(given).items():
        if name not in known:
            raise unknown(f"key in {where}:", name, known)
        kind, optional = known[name]
        if dataclasses.is_dataclass(kind) and not dataclasses.is_dataclass(value):
            value = read_section(kind, value, f"{where}.{name}")
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if kind is tuple and isinstance(value, list):
            value = tuple(value)
        wrong_bool = isinstance(value, bool) and kind in (int, float)
        if not (value is None and optional) and (wrong_bool or not isinstance(value, kind)):
            raise QtxError(f"{where}.{name} is {value!r}: expected {kind.__name__}{' or None' if optional else ''}")
        arguments[name] = value
    try:
        for field, choice in choices(cls).items():
            options = {option: arguments.pop(option, None) for option in choice.all_options()}
            default = next(f.default for f in dataclasses.fields(cls) if f.name == field)  # type: ignore[arg-type]
            arguments[field] = choice.make(field, str(arguments.get(field, choice.name_of(default))), options)
        return cls(**arguments)
    except QtxError as error:
        raise QtxError(f"{where}: {error}") from None
