"""Stand-in data: blank records of the right shapes, which a plan is made for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from qtx.data import OBJECTIVES, VOCABULARIES, Data, load_tokenizer
from qtx.data.labelled import with_types
from qtx.data.objectives import NumbersOfTexts, Objective, TextObjective
from qtx.data.text import DEFAULT_VOCAB_SIZE, TextOptions, TokenizedOptions
from qtx.experiment import Experiment
from qtx.families import family_of
from qtx.foundation.errors import QtxError

# Assumed sizes of images, and of texts with labels, where neither config nor files tell any.
IMAGENET = {"image_size": 224, "channels": 3, "num_classes": 1000}
FEWEST_CLASSES = 2


def stand_in(experiment: Experiment) -> tuple[Data, list[str]]:
    """Returns a `Data` with one blank record, and what was assumed, as texts like `"vocab_size 30522"`.

    Sizes come from the model's options, then the data's, then the tokenizer's file, and are assumed otherwise. No text
    or image is read.

    Raises:
      QtxError: if nothing tells a size, and none can be assumed.
    """
    source, objective = experiment.data.source, OBJECTIVES[experiment.objective]
    if experiment.model.reads == "images":
        return _images(experiment.model, source, objective)
    assert isinstance(objective, TextObjective), "a model of tokens trains on text"
    return _text(experiment, source, objective)


def _text(experiment: Experiment, source: Any, objective: TextObjective) -> tuple[Data, list[str]]:
    length, assumed = source.sequence_length, []
    vocab_size = experiment.model.vocab_size or _vocab_size(source)
    if vocab_size is None:
        vocab_size = family_of(experiment.model).vocab_size
        if vocab_size is None:
            raise QtxError("neither config nor tokenizer tell the vocabulary's size: set config.model.vocab_size")
        assumed = [f"vocab_size {vocab_size}"]
    special = {"end": 1, "pad": 0, "mask": 0, "prompt": "", "is_special": np.zeros(vocab_size, bool)}
    blank: Any = SimpleNamespace(**special, template=SimpleNamespace(after=()))
    classes = None
    if objective.labelled and "num_classes" in experiment.model.from_data:
        classes = numbered(experiment.model.num_classes or FEWEST_CLASSES)
        assumed += [] if experiment.model.num_classes else [f"num_classes {FEWEST_CLASSES}"]
        objective = objective.with_outputs(len(classes)) if isinstance(objective, NumbersOfTexts) else objective
    paired = isinstance(source, TokenizedOptions) and source.pairs(objective)
    block = np.zeros(objective.block_length(length) + length * paired, np.int32)
    if isinstance(source, TextOptions):
        example = source.make_example(blank, objective)
    else:
        example = objective.example(blank, 0)
    example = with_types(example, length) if paired else example
    sizes: Any = {"vocab_size": vocab_size, "sequence_length": length, "classes": classes}
    return Data("no data", [block], [block], example, **sizes), assumed


def numbered(classes: int) -> tuple[str, ...]:
    """Names classes of which only the number is known."""
    return tuple(str(number) for number in range(classes))


def _vocab_size(source: Any) -> int | None:
    """Returns the number of entries of the tokenizer that a source will train or load; None if its file is not here."""
    tokenizer = getattr(source, "tokenizer", None)
    if tokenizer is None or tokenizer in VOCABULARIES:
        return source.vocab_size or DEFAULT_VOCAB_SIZE
    return load_tokenizer(tokenizer).vocab_size if Path(tokenizer).exists() else None


def _images(model: Any, source: Any, objective: Objective) -> tuple[Data, list[str]]:
    needed = {name: size for name, size in IMAGENET.items() if name in model.from_data}
    told = {name: getattr(model, name) or getattr(source, name, None) for name in needed}
    sizes: Any = needed | {name: size for name, size in told.items() if size is not None}
    assumed = [f"{name} {size}" for name, size in sizes.items() if told[name] is None]
    image = np.zeros((sizes["image_size"], sizes["image_size"], sizes["channels"]), np.float32)

    def example(record, rng):
        made = {"images": record, "weights": np.float32(1.0)}
        return made if objective.taught else {**made, "labels": np.int32(0)}

    classes = numbered(sizes.pop("num_classes")) if "num_classes" in sizes else None
    return Data("no data", [image], [image], example, classes=classes, **sizes), assumed
