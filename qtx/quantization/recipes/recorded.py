"""Recipes as data: the rules that a recipe gave for some schemes, as a JSON file that a run keeps.

    {"w8a8": {"of": [<weight quantizer>, <activation quantizer>], "recipe": <recipe>}, ...}

A dataclass is an object with its class's name under "is", a part of models one with its name under "part". Nothing in
the file is run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected, read_sealed_json
from qtx.parts import Part
from qtx.quantization.earlier import LEFT_OUT
from qtx.quantization.estimators import ESTIMATORS
from qtx.quantization.granularity import GRANULARITIES
from qtx.quantization.recipe import Quantizer, Recipe, Rule

REMEDY = "name the recipe on this command line, --config.quantization.recipe=FILE.py:FUNCTION"
EXPECTED = Expected("a recorded recipe", REMEDY)
OF_THE_CONFIG = "exempt"
"""The field of a `Recipe` that is no rule: the config has it."""


def classes() -> dict[str, Any]:
    """Returns the classes that a recorded recipe may be made of, by name."""
    return {cls.__name__: cls for cls in (Recipe, Rule, Quantizer, *ESTIMATORS.values(), *GRANULARITIES.values())}


def as_data(recipe: Recipe, weight: Quantizer, activation: Quantizer) -> dict[str, Any] | None:
    """Returns the entry of a recipe made of a scheme's two quantizers; None if one of its parts is in no registry."""
    try:
        return {"of": [_encode(weight), _encode(activation)], "recipe": _encode(recipe)}
    except LookupError:
        return None


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if classes().get(type(value).__name__) is not type(value):
            raise LookupError(type(value).__name__)
        names = [field.name for field in dataclasses.fields(value) if field.name != OF_THE_CONFIG]
        fields = {name: _encode(getattr(value, name)) for name in names}
        return {"is": type(value).__name__, **fields}
    if isinstance(value, Part):
        return {"part": value.name}
    return [_encode(item) for item in value] if isinstance(value, tuple) else value


def _decode(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"part"}:
        return Part[value["part"]]
    if isinstance(value, dict):
        fields = {name: _decode(item) for name, item in value.items() if name not in ("is", LEFT_OUT)}
        return classes()[value["is"]](**fields)
    return tuple(_decode(item) for item in value) if isinstance(value, list) else value


def recorded_recipe(file: Path) -> Callable[..., Recipe]:
    """Returns the recipe that a file holds, as a function like a registered one.

    Raises:
      QtxError: if the file is missing or cannot be read. The function raises one for a scheme that the file does not
        hold, or holds for other options.
    """
    entries = read_entries(file)

    def recipe(model: Any, weight: Quantizer, activation: Quantizer) -> Recipe:
        scheme = f"w{weight.bits}a{activation.bits}"
        if scheme not in entries:
            raise QtxError(f"{file} has no rules for {scheme}, only for {', '.join(entries)}: {REMEDY}")
        try:
            made_of, found = _decode(entries[scheme]["of"]), _decode(entries[scheme]["recipe"])
        except QtxError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise QtxError(f"{file} is damaged ({type(error).__name__}: {error}): {REMEDY}") from None
        if not isinstance(found, Recipe) or not all(isinstance(rule, Rule) for rule in _rules(found)):
            raise QtxError(f"{file} is damaged (it holds no recipe for {scheme}): {REMEDY}")
        if made_of != (weight, activation):
            raise QtxError(f"{file} has the rules for {scheme} under other options of config.quantization: {REMEDY}")
        return found

    return recipe


def _rules(recipe: Recipe) -> tuple[Any, ...]:
    both = (recipe.weights, recipe.activations)
    return tuple(rule for rules in both for rule in (rules if isinstance(rules, tuple) else (None,)))


def read_entries(file: Path) -> Mapping[str, Any]:
    """Reads the entries of a file, by scheme.

    Raises:
      QtxError: if the file is missing, or is not as it was written.
    """
    if not file.exists():
        raise QtxError(f"{file} is not there: {REMEDY}")
    return read_sealed_json(file, EXPECTED)
