"""This module describes in a table what the import and export of a model family need to know."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from qtx.data.classes import default_names
from qtx.families.weights import Weight
from qtx.foundation.errors import QtxError, lookup
from qtx.models import OF_TRAINING

# BERT's first published checkpoints have TensorFlow's names.
RENAMED = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
# Keys of a config.json of any kind that say that the weights are not those of the plain model.
UNSUPPORTED = ("quantization_config", "pruned_heads")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One kind of Hugging Face checkpoint.

    Attributes:
      model_type: the kind's name in config.json, e.g. `"bert"`.
      architectures: the classes in `transformers`, e.g. `"BertForMaskedLM"`, with the config fields that each means; a
        model is written as the first whose fields it has. If a field has a tuple of values, a model has one of them,
        and is read with the first.
      fields: config.json's keys to our config's fields. A value that matters in training alone, and that our config
        does not take, is not read, and stays in the original.
      defaults: values that `transformers` takes for keys that config.json leaves out, or has null for.
      supported: keys with the one value that is supported; a key left out, or null, means this value too.
      attention_prefix: the prefix of the attention layer's weights, with `{layer}`, also of normalizers' and gates'.
      weights: the table for a config, without the rows of normalizers and gates.
      prefix: the prefix of the weights below the heads, e.g. `"bert."`.
      modules: the beginnings of these names if a checkpoint leaves the prefix out, e.g. `"encoder."`.
      bare: architectures that are written without the prefix.
      tied: weights that may be stored a second time, or only as the copy: the copy's name to the original's.
      unused: beginnings of names that published checkpoints have and, if no row has them, qtx does not compute with.
      shown_by_weights: tells config fields from the tensors, by name.
      told_by_values: tells config fields that take more than one key of config.json, from all its values, the fields so
        far, and its name in errors.
      extra: makes, for a config, the part of config.json beside `fields` and `supported`.
      options: brings config.json's values, given its name in errors, under the keys of `fields` and `supported`, for
        libraries that nest them.
    """

    model_type: str
    architectures: Mapping[str, Mapping[str, Any]]
    fields: Mapping[str, str]
    defaults: Mapping[str, Any]
    supported: Mapping[str, Any]
    attention_prefix: str
    weights: Callable[[Any], list[Weight]]
    prefix: str = ""
    modules: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unused: tuple[str, ...] = ()
    shown_by_weights: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda tensors: {}
    told_by_values: Callable[[Mapping[str, Any], Mapping[str, Any], str], dict[str, Any]] = lambda *_: {}
    extra: Callable[[Any], dict[str, Any]] = lambda config: {}
    options: Callable[[Mapping[str, Any], str], Mapping[str, Any]] = lambda values, source: values

    def architecture(self, config: Any) -> str:
        """Returns the class in `transformers` that a config is written as."""
        fits = (
            name
            for name, fields in self.architectures.items()
            if all(getattr(config, field) in _values(value) for field, value in fields.items())
        )
        return next(fits)

    def full_names(self, names: Iterable[str]) -> dict[str, str]:
        """Maps a file's names to those of the table: today's names, with the prefix."""
        result = {}
        for name in names:
            full = self.prefix + name if name.startswith(self.modules) else name
            for old, new in RENAMED.items():
                full = full.removesuffix(old) + new if full.endswith(old) else full
            result[name] = full
        return result

    def read_config(self, values: Mapping[str, Any], tensors: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Returns the fields of our config that a config.json and the weights' names and shapes give.

        Raises:
          QtxError: naming a key that is missing, or one whose value qtx does not support.
        """
        values = self.options({key: value for key, value in values.items() if value is not None}, source)
        for key, value in self.supported.items():
            if values.get(key, value) != value:
                raise QtxError(f"{source}: {key} is {values[key]!r}; qtx's {self.model_type} supports only {value!r}")
        for key in UNSUPPORTED:
            if values.get(key):
                raise QtxError(f"{source} has {key}, which qtx does not support: convert the model to one without")
        given = {**self.defaults, **values}
        result: dict[str, Any] = {}
        for key, field in self.fields.items():
            if key not in given:
                raise QtxError(f"{source} has no {key!r}, which a {next(iter(self.architectures))} needs")
            if field not in OF_TRAINING or _is_taken(field, given[key]):
                result[field] = given[key]
        named = values.get("architectures") or []
        if not isinstance(named, list) or len(named) > 1:
            raise QtxError(f"{source}: architectures is {str(named)[:100]}, expected a list of one name")
        shown = self.shown_by_weights(tensors)
        for name in named:
            meant = lookup(self.architectures, f"architecture in {source}:", str(name))
            shown |= {field: _values(value)[0] for field, value in meant.items()}
        return result | shown | self.told_by_values(values, shown, source)

    def write_config(self, config: Any) -> dict[str, Any]:
        """Returns the config.json of our config."""
        values = {key: getattr(config, field) for key, field in self.fields.items()}
        return {
            "model_type": self.model_type,
            "architectures": [self.architecture(config)],
            **self.supported,
            **values,
            **self.extra(config),
        }


def _values(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _is_taken(field: str, value: Any) -> bool:
    """Says whether our config takes a value of a field of `OF_TRAINING`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (0 < value < math.inf if field == "init_std" else 0 <= value < 1)


def labels(num_classes: int | None, names: Sequence[str] = ()) -> dict[str, dict]:
    """Returns config.json's class names, by default transformers' own; transformers reads their number from them."""
    names = (*names, *default_names(num_classes or 0)[len(names) :])
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def first_length(tensor: Any) -> int:
    """Returns the length of a tensor's first axis; 1 for a scalar, which is refused later, by its name."""
    return tensor.shape[0] if tensor.shape else 1
