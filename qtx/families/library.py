"""This module says what the checkpoint folders of one library have in common, whatever the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Library:
    """A `Library` says what a library writes into every config.json.

    Attributes:
      name: the library's name, e.g. `"transformers"`.
      key: the key of config.json that names the model's type.
      class_names: takes from config.json's values the names of the classes by number; empty: it has none.
      labels: makes the keys of config.json that name all classes; the first of them has the names.
      names_all: whether a class without a name in config.json has none; in other libraries it may have one elsewhere.
      pixels: reads the options of an image source from config.json's values, given its name in errors; None: the file
        preprocessor_config.json has them.
    """

    name: str
    key: str
    class_names: Callable[[Mapping[str, Any]], Mapping[Any, Any]]
    labels: Callable[[Sequence[str]], dict[str, Any]]
    names_all: bool = True
    pixels: Callable[[Mapping[str, Any], str], dict[str, Any]] | None = None


def _class_names(values: Mapping[str, Any]) -> Mapping[Any, Any]:
    """Returns `id2label`, unless `num_labels` says another number of classes, which `transformers` then follows."""
    names, number = values.get("id2label"), values.get("num_labels")
    return names if isinstance(names, Mapping) and number in (None, len(names)) else {}


def _labels(names: Sequence[str]) -> dict[str, Any]:
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


TRANSFORMERS = Library("transformers", "model_type", _class_names, _labels)
