"""This module turns frozen dataclasses into `ml_collections.ConfigDict` sections and back; its errors name the key.

Every group of options is a frozen dataclass declared beside the code that uses it, with limits beside its fields
(`qtx.foundation.limits`). A config file shows the group to the user as a `ConfigDict` section; `read_section` turns the
(possibly overridden) section back. A field that holds one of a registry's variants, a `Choice`, is flattened in the
section: into the variant's name and, beside it, the options of all variants.
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
    """A `Choice` marks a field that holds an instance of one of a registry's dataclasses, whose fields are its options.

    Attributes:
      registry: the classes by name.
      prefix: the prefix of the options' names in the flat section.
      none: the name that stands for None, if the field may be None.
      kind: what messages about an unknown variant call variants; None: the field's name.
    """

    registry: Mapping[str, type]
    prefix: str = ""
    none: str | None = None
    kind: str | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """Returns the metadata for the dataclass field."""
        return {CHOICE: self}

    def options(self, name: str) -> dict[str, type]:
        """Returns the options of a variant, by their names in the flat section, with their types."""
        if name == self.none:
            return {}
        return {self.prefix + option: kind for option, (kind, _) in field_types(self.registry[name]).items()}

    def names(self) -> list[str]:
        """Returns the names of all variants."""
        return [*self.registry, *([] if self.none is None else [self.none])]

    def name_of(self, variant: Any) -> str:
        """Returns the name of a variant's instance."""
        if variant is None and self.none is not None:
            return self.none
        return registered_name(self.registry, type(variant))

    def all_options(self) -> dict[str, type]:
        """Returns the options of all variants, with their types.

        Raises:
          QtxError: if two variants have an option of the same name and different types, or an option may be None but
            has another default: None has to mean that the option is not given.
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
        """Returns an instance's options; None: an option of another variant or, without `defaults`, at its default."""
        result = dict.fromkeys(self.all_options())
        for field in () if variant is None else dataclasses.fields(variant):
            value = getattr(variant, field.name)
            if defaults or value != field.default:
                result[self.prefix + field.name] = value
        return result

    def make(self, field: str, name: str, given: Mapping[str, Any]) -> Any:
        """Makes the instance of a variant from the options that are not None.

        Raises:
          QtxError: for an unknown variant, an option that the variant lacks or needs, or a bad value.
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
    """Returns the name under which a registry has a class.

    Raises:
      QtxError: if the registry does not have the class.
    """
    for name, registered in registry.items():
        if registered is cls:
            return name
    raise QtxError(f"{cls.__name__} has no name: enter it in the registry of {', '.join(registry)}")


def choices(cls: type) -> dict[str, Choice]:
    """Returns the choices of a dataclass, by the fields that hold a variant."""
    return {field.name: field.metadata[CHOICE] for field in dataclasses.fields(cls) if CHOICE in field.metadata}


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """Evaluates the annotations of a class, which are text (PEP 563), once."""
    return typing.get_type_hints(cls)


def field_types(cls: type) -> dict[str, tuple[type, bool]]:
    """Returns name to (type, may be None) of every field of a dataclass, e.g. `float | None` becomes `(float, True)`. A
    choice becomes a name, and options that may be None.

    Raises:
      QtxError: if an option of a choice has the name of a field, or of another choice's option, or a type is no class.
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
    """Returns a dataclass instance as nested dictionaries, choices flattened: the content of a record.

    Args:
      options: the instance.
      defaults: whether options of a choice that are at their defaults are given as such, and not as None.
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
    """Returns the `ConfigDict` that shows a dataclass instance. A field that is None stays overridable with its type.
    So does a choice's option at its default: it is shown as None, since another variant may not have it."""
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
    """Makes `cls(**given)`, after checking names and types.

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
