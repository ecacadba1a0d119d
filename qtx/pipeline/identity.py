"""A run's identity says by contents what the run was made from: its tokenizer, its classes and its data, so that no
others pass for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qtx.data import Data, DataConfig, load
from qtx.experiment import Experiment
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import sealed_json
from qtx.pipeline.classes import check_places, has_labels, known_classes, learns_classes, load_numbered
from qtx.pipeline.lineage import config_of, starts
from qtx.training.run_folder import CLASSES, RECIPE, RunFolder


def origin(experiment: Experiment, workdir: Path) -> RunFolder | None:
    """Returns the run whose tokenizer an experiment in `workdir` uses: the run in the folder, or the one that training
    starts from; None: the experiment has yet to make a tokenizer."""
    folders = [RunFolder(workdir), *([RunFolder(Path(experiment.start))] if experiment.start else [])]
    return next((folder for folder in folders if folder.config.exists()), None)


def load_data(experiment: Experiment, run: RunFolder | None = None, classes: Sequence[str] | None = None) -> Data:
    """Loads the data of an experiment. If there is a run, its tokenizer, which is never trained anew, cuts the texts,
    and its classes number the labels.

    Args:
      experiment: the experiment, not necessarily on the data that the run was trained on.
      run: see `origin`.
      classes: the model's classes, if no run knows them; None: the model has yet to learn some.

    Raises:
      UnknownLabel: if the model does not know a label.
      QtxError: as `load`; if the run's tokenizer cannot be read, or the data are of another kind than the run's.
    """
    config, objective = experiment.data, experiment.objective
    config = config if run is None else _cut_as(config, run)
    number, begun = getattr(experiment.model, "num_classes", None), run is not None or classes is not None
    if run is not None and has_labels(experiment):
        classes = known_classes(starts(config_of(str(run.root)), run.root), objective)
    if not learns_classes(experiment):
        data = load(config, objective)
        if number is not None:  # the model's outputs are fixed, and not to be learned
            check_places(data.classes or (), classes or ())
        return data
    if not begun and number is not None and getattr(config.source, "classes", None) is None:
        classes = tuple(map(str, range(number)))  # a label that is a number is its class's number
    return load_numbered(config, objective, classes, new_head=not begun or number is None)


def _cut_as(config: DataConfig, run: RunFolder) -> DataConfig:
    """Returns the data's config with the tokenizer of a run, so that texts are cut as the run's were."""
    cut, takes_tokenizer = "tokenizer" in run.identity(), hasattr(config.source, "tokenizer")
    if takes_tokenizer != cut:
        kinds = {True: "text, cut by a tokenizer", False: "data without a tokenizer"}
        raise QtxError(
            f"{run.root} was trained on {kinds[cut]}, but data source {config.name!r} gives {kinds[takes_tokenizer]}"
        )
    if not cut:
        return config
    if not run.tokenizer.is_file():
        raise QtxError(f"{run.tokenizer} is missing, the tokenizer that the run was trained with: restore it")
    return config.with_tokenizer(run.tokenizer)


def identity_of(data: Data) -> dict[str, Any]:
    """Returns the SHA-256 of each part: `tokenizer`, of the tokenizer's files; `training` and `held_out`, of the
    contents of the splits; and the names of the classes, if the data have labels."""
    tokenizer = data.tokenizer and {"tokenizer": data.tokenizer.digest}
    return {**(tokenizer or {}), **data.digests, **({CLASSES: list(data.classes)} if data.classes else {})}


def kept_files(experiment: Experiment, data: Data) -> dict[str, str]:
    """Returns the files that a run keeps from its start, name to text: its tokenizer, and the rules of a user's recipe.
    Nothing may be open in the experiment's config of the model."""
    schemes = (*experiment.quantization.schemes, *([experiment.qat.scheme] if experiment.qat.scheme else []))
    rules = experiment.quantization.recorded_rules(schemes, experiment.model)
    files = {} if data.tokenizer is None else dict(data.tokenizer.files)
    return files | ({RECIPE: sealed_json(rules).decode()} if rules else {})
