"""This module numbers the labels of any data by the classes that a model knows: by name, never by place."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from qtx.data import OBJECTIVES, Data, DataConfig, load
from qtx.data.classes import Known, Numbering, UnknownLabel, are_unnamed, in_words, plain
from qtx.data.label_values import NUMBERS, SEPARATOR
from qtx.data.tfds_datasets import PREFIX
from qtx.experiment import Experiment
from qtx.families import FAMILIES
from qtx.foundation.errors import QtxError
from qtx.interop.class_names import class_names
from qtx.interop.stored import open_folder
from qtx.training.run_folder import CLASSES, RunFolder


def has_labels(experiment: Experiment) -> bool:
    """Says whether an experiment's examples have labels that the model's outputs stand for: classes, or numbers."""
    return "num_classes" in experiment.model.from_data and not OBJECTIVES[experiment.objective].taught


def learns_classes(experiment: Experiment) -> bool:
    """Says whether an experiment has labels, and these are classes or have names, not numbers alone."""
    return has_labels(experiment) and OBJECTIVES[experiment.objective].label_kind != NUMBERS


def known_classes(chain: Iterable[tuple[Path | None, Experiment]], objective: str) -> tuple[str, ...] | None:
    """Returns the classes that a run's head has learned, in this run or an earlier one, in the order of their numbers.

    Args:
      chain: the run and the runs that it started from; see `qtx.pipeline.lineage.starts`.
      objective: the objective that the head is to serve.

    Returns:
      the classes' names; None if the run has no such head, or its head has learned no classes.
    """
    for folder, there in chain:
        head = FAMILIES[there.family].heads.get(objective)
        if "num_classes" not in there.model.from_data or head not in (None, getattr(there.model, "head", None)):
            return None
        assert folder is not None, "a run that has begun has a folder"
        run = RunFolder(folder)
        if CLASSES in run.identity():
            return tuple(run.identity()[CLASSES])
        if run.imported.is_dir():
            return class_names(open_folder(run.imported), there.model.num_classes)
        if learns_classes(there):
            return _of_earlier_version(run, there.data, there.objective)
    return None


def _of_earlier_version(run: RunFolder, config: DataConfig, objective: str) -> tuple[str, ...] | None:
    """Returns the classes of a run that recorded none: the classes of its own data, sorted as text as earlier versions
    did unless the source gives them an order."""
    source: Any = config.source
    if getattr(source, "classes", None) is not None:
        return source.classes
    cut = config.with_tokenizer(run.tokenizer) if hasattr(source, "tokenizer") else config
    try:
        own = load(cut, objective).classes or ()
    except QtxError as error:
        raise QtxError(
            f"{run.root}, of an earlier version, has no record of its classes but in its data: {error}"
        ) from None
    ordered = not hasattr(source, "classes") or str(getattr(source, "corpus", "")).startswith(PREFIX)
    return own if ordered else tuple(sorted(own))


def load_numbered(config: DataConfig, objective: str, known: Sequence[str] | None, new_head: bool = False) -> Data:
    """Loads data whose labels are numbered as a model's classes are.

    Args:
      config: the data; the option `classes`, if the source has it, gives the data's own names for the model's classes.
      objective: see `qtx.data.load`.
      known: the model's classes, in the order of their numbers; None: the model has yet to learn some.
      new_head: whether the model may also learn other classes, with a new head: `classes`, if their number is not the
        model's, or the data's, if the model knows none of their labels.

    Raises:
      UnknownLabel: if the model does not know a label.
      QtxError: as `load`, or if the config numbers the classes otherwise.
    """
    source: Any = config.source
    takes_classes = hasattr(source, "classes")
    given = source.classes if takes_classes else None
    if known is None or (given is not None and new_head and len(given) != len(known)):
        return load(config, objective)
    if given is not None:
        return load(config.with_classes(_agreed(given, known)), objective)
    try:
        if takes_classes:
            return load(config.with_classes(Known(known)), objective)
        return _of_source(config, objective, known)
    except UnknownLabel:
        own = load(config, objective) if new_head else None
        if own is None or Numbering(known).numbers.keys() & set(own.classes or ()):
            raise
        return own


def _agreed(given: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Returns the data's names for the model's classes: the `given` ones, and for the rest the model's own."""
    if len(given) > len(known):
        raise QtxError(
            f"data.classes names {len(given)} classes, but the model has {len(known)}, {in_words(known)}: give the "
            "data's labels in the order of these"
        )
    for number, name, own in _misplaced(given, known):
        raise QtxError(
            f"data.classes has {name!r} in place {number}, but it is the model's class {own} of {in_words(known)}, "
            "numbered from 0: leave data.classes out, or give the data's labels in their order"
        )
    return (*given, *known[len(given) :])


def check_places(names: Sequence[str], known: Sequence[str]) -> None:
    """Raises QtxError if a numeric label is named as one of a model's outputs, but stands in the place of another.

    Args:
      names: the names of the numeric labels.
      known: the names of the model's outputs; a label with none of these names counts by its place.
    """
    for place, name, _ in _misplaced(names, known):
        raise QtxError(
            f"the labels are {in_words(names)}, but the model's outputs are {in_words(known)}, and number {place + 1} "
            f"is not {name}: give the labels in this order, e.g. data.label_column={SEPARATOR.join(known)}"
        )


def _misplaced(names: Sequence[str], known: Sequence[str]) -> Iterator[tuple[int, str, int]]:
    """Finds each name that the model has in another place: (place, name, the model's place)."""
    places = {plain(name): place for place, name in enumerate(known)}
    found = ((place, name, places.get(plain(name), place)) for place, name in enumerate(names))
    return (one for one in found if one[0] != one[2])


def _of_source(config: DataConfig, objective: str, known: Sequence[str]) -> Data:
    """Loads data of a source with classes of its own, which must be numbers, or the model's."""
    data = load(config, objective)
    own = data.classes or ()
    by_number = are_unnamed(own) and len(own) <= len(known)
    if not by_number and own != tuple(known[: len(own)]):
        raise UnknownLabel(
            f"data source {config.name!r} has the classes {in_words(own)}, but the model has {in_words(known)}: choose "
            "data with the model's labels"
        )
    names = [str(i) for i in range(len(known))] if are_unnamed(known) and by_number else known
    return dataclasses.replace(data, classes=tuple(names))


def same_classes(one: Sequence[str], other: Sequence[str]) -> bool:
    """Says whether two lists of classes have the same names, or have no names and the same length."""
    return tuple(one) == tuple(other) or (len(one) == len(other) and are_unnamed(one) and are_unnamed(other))
