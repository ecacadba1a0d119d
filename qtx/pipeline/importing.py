"""A run made of a checkpoint that somebody has: at step 0, with the checkpoint's files and its own tokenizer."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from qtx.builtin import builtin_checkpoint
from qtx.data import OBJECTIVES, Data, DataConfig, load_tokenizer
from qtx.data.config import SOURCE
from qtx.data.sources import TextLabels
from qtx.experiment import Experiment, default, record
from qtx.families import FAMILIES, build, family_of
from qtx.foundation.config import section
from qtx.foundation.errors import QtxError
from qtx.interop import load
from qtx.interop.carried import carried_files
from qtx.interop.hub import fetch
from qtx.interop.stored import CONFIG, open_folder
from qtx.interop.weight_files import INDEX
from qtx.models import TransformerConfig
from qtx.pipeline.identity import identity_of, kept_files, load_data
from qtx.pipeline.prepare import Prepared, prepare
from qtx.training.run_folder import IDENTITY, RunFolder

BUILTIN = "builtin:"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
SEQUENCE_LENGTH = 128


@dataclasses.dataclass(frozen=True)
class Found:
    """A checkpoint that a name leads to.

    Attributes:
      folder: where it lies.
      source: where it is from, for the record.
    """

    folder: Path
    source: str


def found(checkpoint: str) -> Found:
    """The checkpoint of a folder; a built-in one, `builtin:NAME`; or one of the Hugging Face Hub, `ORGANIZATION/NAME`
    or `ORGANIZATION/NAME@REVISION`, which is fetched.

    Raises:
      QtxError: if there is none.
    """
    if checkpoint.startswith(BUILTIN):
        return Found(builtin_checkpoint(checkpoint.removeprefix(BUILTIN)), checkpoint)
    folder = Path(checkpoint)
    if folder.is_dir():
        return Found(folder, checkpoint)
    name, _, revision = checkpoint.partition("@")
    if folder.exists() or not HUB_NAME.fullmatch(name):
        raise QtxError(
            f"no checkpoint {checkpoint}: expected a folder with config.json and *.safetensors, or a model of the "
            "Hugging Face Hub, organization/name"
        )
    fetched, commit = fetch(name, revision or None)
    return Found(fetched, f"{name}@{commit}")


def config_of_checkpoint(checkpoint: Found) -> ConfigDict:
    """The config of the run that a checkpoint makes: its model, and built-in data cut by its own tokenizer, for the
    objective of its head; a model without a head is measured by what it was (objective `distill`).

    Raises:
      QtxError: if it is no checkpoint that qtx reads, or has no tokenizer.
    """
    folder = checkpoint.folder
    model = open_folder(folder).config(None)
    name = next(name for name, family in FAMILIES.items() if family is family_of(model))
    config = default(name)
    config.name = Path(checkpoint.source.partition("@")[0]).resolve().name.removeprefix(BUILTIN)
    config.model = section(model)
    config.objective = objective_of(model)
    source = OBJECTIVES[config.objective].built_in_source
    options: dict[str, Any] = {}
    if model.reads == "tokens":
        load_tokenizer(folder)
        longest = getattr(model, "max_length", SEQUENCE_LENGTH)
        options = {"tokenizer": str(folder), "sequence_length": min(SEQUENCE_LENGTH, longest)}
    config.data = section(DataConfig(SOURCE.make("source", source, options)))
    return config.lock()


def objective_of(model: TransformerConfig) -> str:
    """What a model was trained for, as far as text that is just text has it; otherwise to stay what it is."""
    head = getattr(model, "head", None)
    return "distill" if head in ("none", "classification") else family_of(model).objectives[0]


def import_run(experiment: Experiment, workdir: Path, checkpoint: Found, data: Data | None = None) -> Prepared:
    """Makes the run of a checkpoint in `workdir`; one that is there already stays.

    Args:
      experiment: of `config_of_checkpoint`, on data of the user's choice.
      workdir: the run's folder.
      checkpoint: of `found`.
      data: the experiment's, if they are loaded already.

    Raises:
      QtxError: if the model and the data do not fit, or `workdir` holds another run.
    """
    run, folder = RunFolder(workdir), checkpoint.folder
    experiment = with_classes(experiment, folder)
    identity = {"imported": digest(folder), "source": checkpoint.source}
    if run.config.exists():
        there = run.identity()
        if there.get("imported") != identity["imported"]:
            raise QtxError(f"{workdir} holds another run: choose another --workdir, or delete this one")
        run.check(run.read_config(), record(experiment), other_data=True)
        return prepare(experiment, data, run)
    if workdir.exists() and any(workdir.iterdir()):
        raise QtxError(f"{workdir} is not empty, and holds no run: choose another --workdir")
    data = load_data(experiment.data, experiment.objective) if data is None else data
    module = build(experiment.model, data)
    experiment = dataclasses.replace(experiment, model=module.config)
    copied = run.imported.with_name(f".imported.{os.getpid()}")
    try:
        copied.mkdir(parents=True)
        for file in files_of(folder):
            target = copied / file.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)
        load(copied)  # whole, before anything says that there is a run
        os.replace(copied, run.imported)
        files = kept_files(experiment, module.config, data)
        run.claim({**record(experiment), IDENTITY: {**identity_of(data), **identity}}, files)
    except OSError as error:
        raise QtxError(f"cannot write the run's folder {workdir}: {error.strerror}") from error
    finally:
        shutil.rmtree(copied, ignore_errors=True)
        if not run.config.exists():
            shutil.rmtree(run.imported, ignore_errors=True)
        if workdir.is_dir() and not any(workdir.iterdir()):
            workdir.rmdir()
    return prepare(experiment, data, run)


def with_classes(experiment: Experiment, folder: Path) -> Experiment:
    """The same experiment; its labels are numbered as the checkpoint's are, if that names them and the config does
    not."""
    source, names = experiment.data.source, open_folder(folder).values.get("id2label")
    if not isinstance(source, TextLabels) or source.classes is not None or not isinstance(names, dict):
        return experiment
    classes = tuple(str(names.get(str(number))) for number in range(len(names)))
    unnamed = tuple(f"LABEL_{number}" for number in range(len(names)))  # as transformers has it
    if classes == unnamed or not OBJECTIVES[experiment.objective].labelled:
        return experiment
    return dataclasses.replace(experiment, data=DataConfig(dataclasses.replace(source, classes=classes)))


def files_of(folder: Path) -> list[Path]:
    """What is kept of a checkpoint's folder: config, weights, and what goes with them (`qtx.interop.carried`)."""
    weights = [folder / name for name in open_folder(folder).files]
    index = [folder / INDEX] if (folder / INDEX).is_file() else []
    return sorted([folder / CONFIG, *weights, *index, *carried_files(folder)])


def digest(folder: Path) -> str:
    """SHA-256 of the files of a checkpoint, wherever it lies."""
    whole = hashlib.sha256()
    for file in files_of(folder):
        with file.open("rb") as content:
            whole.update(f"{file.relative_to(folder)} ".encode() + hashlib.file_digest(content, "sha256").digest())
    return whole.hexdigest()
