"""The names that a checkpoint's config.json gives its classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from qtx.data.classes import are_unnamed, default_names, plain
from qtx.families.library import Library
from qtx.interop.stored import Stored


def class_names(stored: Stored, number: int) -> tuple[str, ...]:
    """Returns the names of a classifier's classes by number: `LABEL_i`, as in `transformers`, if there are no names or
    those of another number of classes; classes of the same name get their numbers as well.

    Args:
      stored: the checkpoint.
      number: the number of classes, by the checkpoint's weights.
    """
    library, default = stored.checkpoint.library, default_names(number)
    try:
        names = {int(key): str(name) for key, name in library.class_names(stored.values).items()}
    except (TypeError, ValueError):
        return default
    if not names.keys() <= set(range(number)) or (len(names) < number and library.names_all):
        return default
    complete = [names.get(i, default[i]) for i in range(number)]
    times = Counter(map(plain, complete))
    return tuple(name if times[plain(name)] == 1 else f"{name} ({i})" for i, name in enumerate(complete))


def named_classes(
    library: Library, values: Mapping[str, Any], number: int, names: Sequence[str], learned: bool
) -> dict[str, Any]:
    """Returns the keys of config.json, so far `values`, that name a model's classes anew, the first of which have
    `names`; none if the names that are there stay, which is so unless the model has `learned` other classes."""
    default = default_names(number)
    key, unnamed = next(iter(library.labels(default).items()))
    replaced = library.names_all and values.get(key) in (None, unnamed) and not are_unnamed(names)
    return library.labels([*names, *default[len(names) :]]) if learned or replaced else {}
