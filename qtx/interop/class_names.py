"""The names that a checkpoint's config.json gives its classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from qtx.data.classes import default_names, plain
from qtx.interop.stored import Stored

OF_TIMM = ("label_names", "labels")
"""Keys of timm's config.json in order of precedence; `label_names` of its `pretrained_cfg` comes last."""


def class_names(stored: Stored, number: int) -> tuple[str, ...]:
    """Returns the names of a classifier's classes by number: `LABEL_i`, as in `transformers`, if there are no names or
    those of another number of classes; classes of the same name get their numbers as well.

    Args:
      stored: the checkpoint.
      number: the number of classes, by the checkpoint's weights.
    """
    timm, default = stored.checkpoint is stored.family.timm, default_names(number)
    given = _of_timm(stored.values) if timm else _of_transformers(stored.values)
    try:
        names = {int(key): str(name) for key, name in given.items()}
    except (TypeError, ValueError):
        return default
    if not names.keys() <= set(range(number)) or (len(names) < number and not timm):  # timm may leave some out
        return default
    complete = [names.get(i, default[i]) for i in range(number)]
    times = Counter(map(plain, complete))
    return tuple(name if times[plain(name)] == 1 else f"{name} ({i})" for i, name in enumerate(complete))


def _of_transformers(values: Mapping[str, Any]) -> Mapping[Any, Any]:
    """Returns `id2label`, unless `num_labels` says another number of classes, which `transformers` then follows."""
    names, number = values.get("id2label"), values.get("num_labels")
    return names if isinstance(names, Mapping) and number in (None, len(names)) else {}


def _of_timm(values: Mapping[str, Any]) -> Mapping[Any, Any]:
    nested = values.get("pretrained_cfg")
    places = [values.get(key) for key in OF_TIMM] + [nested.get(OF_TIMM[0]) if isinstance(nested, dict) else None]
    names = next((names for names in places if names), None)
    return dict(enumerate(names)) if isinstance(names, list) else names if isinstance(names, dict) else {}
