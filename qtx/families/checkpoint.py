"""What the import and export of a model family need to know, as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qtx.families.weights import Weight
from qtx.foundation.errors import QtxError


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One kind of Hugging Face checkpoint.

    Attributes:
      model_type: its name in config.json, e.g. `"bert"`.
      architecture: the class in `transformers`, e.g. `"BertForMaskedLM"`.
      fields: their config.json key to our config's field; keys of one field must agree.
      defaults: values that `transformers` takes for keys that config.json leaves out.
      supported: keys whose value must be this one; a key left out means this one too.
      attention_prefix: of the attention layer's weights, with `{layer}`; a gate's weights follow it.
      weights: the table for a config, gates aside.
      tied: weights that may be stored a second time: the copy's name to the original's.
      unused: beginnings of names that published checkpoints have and the architecture does not use.
      shown_by_weights: config fields that only the weights tell, by tensor name.
      extra: more of config.json than `fields` and `supported`, for a config.
    """

    model_type: str
    architecture: str
    fields: Mapping[str, str]
    defaults: Mapping[str, Any]
    supported: Mapping[str, Any]
    attention_prefix: str
    weights: Callable[[Any], list[Weight]]
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unused: tuple[str, ...] = ()
    shown_by_weights: Callable[[Mapping[str, np.ndarray]], dict[str, Any]] = lambda tensors: {}
    extra: Callable[[Any], dict[str, Any]] = lambda config: {}

    def read_config(self, values: Mapping[str, Any], source: str) -> dict[str, Any]:
        """The fields of our config that a config.json gives.

        Raises:
          QtxError: naming a key that is missing, or one whose value qtx does not support.
        """
        for key, value in self.supported.items():
            if values.get(key, value) != value:
                raise QtxError(f"{source}: {key} is {values[key]!r}; qtx's {self.architecture} supports only {value!r}")
        given = {**self.defaults, **values}
        result: dict[str, Any] = {}
        for key, field in self.fields.items():
            if key not in given:
                raise QtxError(f"{source} has no {key!r}, which a {self.architecture} needs")
            if result.setdefault(field, given[key]) != given[key]:
                raise QtxError(
                    f"{source}: {key} is {given[key]!r}; qtx's {self.architecture} supports only {result[field]!r}"
                )
        return result

    def write_config(self, config: Any) -> dict[str, Any]:
        """The config.json of our config."""
        values = {key: getattr(config, field) for key, field in self.fields.items()}
        return {
            "model_type": self.model_type,
            "architectures": [self.architecture],
            **self.supported,
            **values,
            **self.extra(config),
        }
