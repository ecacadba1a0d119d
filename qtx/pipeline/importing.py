"""A run made of a checkpoint that somebody has: at step 0, with the checkpoint's files and its own tokenizer."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from qtx.attention import attention_text
from qtx.builtin import builtin_checkpoint
from qtx.data import OBJECTIVES, Data, DataConfig, load_tokenizer
from qtx.data.config import SOURCE
from qtx.data.label_values import NUMBERS
from qtx.data.sources import TextLabels
from qtx.experiment import Experiment, default, record
from qtx.families import FAMILIES, build, family_of
from qtx.families.bert import PROBLEM_TYPE
from qtx.foundation.config import section
from qtx.foundation.errors import QtxError
from qtx.interop import load
from qtx.interop.contents import digest_of_folder, files_of
from qtx.interop.hub import fetch
from qtx.interop.original import differing_fields
from qtx.interop.stored import open_folder
from qtx.models import FROM_DATA, TransformerConfig
from qtx.models.bert import OF_TEXTS
from qtx.pipeline.identity import identity_of, kept_files, load_data
from qtx.pipeline.prepare import Prepared, prepare
from qtx.training.run_folder import FREE_MODEL_OPTIONS, IDENTITY, RunFolder

BUILTIN = "builtin:"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
SEQUENCE_LENGTH = 128
UNFINISHED = ".imported."
"""What a checkpoint's copy is called until it is whole, before the number of the process."""


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
    return family_of(model).objectives[0] if head in (None, "mlm") else "distill"


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
    check_model(experiment.model, open_folder(folder).config(None))
    experiment = with_classes(experiment, folder)
    identity = {"imported": digest_of_folder(folder), "source": checkpoint.source}
    if run.config.exists():
        there = run.identity()
        if there.get("imported") != identity["imported"]:
            raise QtxError(f"{workdir} holds another run: choose another --workdir, or delete this one")
        kept, now = run.read_config(), record(experiment)
        run.check(kept, now)
        measured_by = {name: now["model"][name] for name in FREE_MODEL_OPTIONS if name in now["model"]}
        run.write_config({**kept, "model": {**kept["model"], **measured_by}})
        return prepare(experiment, data, run)
    unfinished = [file for file in workdir.glob(f"{UNFINISHED}*") if _is_left(file)] if workdir.is_dir() else []
    if workdir.exists() and any(file not in unfinished for file in workdir.iterdir()):
        raise QtxError(f"{workdir} is not empty, and holds no run: choose another --workdir")
    data = load_data(experiment.data, experiment.objective) if data is None else data
    module = build(experiment.model, data)
    experiment = dataclasses.replace(experiment, model=module.config)
    copied = run.imported.with_name(f"{UNFINISHED}{os.getpid()}")
    claimed: dict[str, str] = {}
    try:
        for left in unfinished:
            shutil.rmtree(left)
        copied.mkdir(parents=True)
        for file in files_of(folder):
            target = copied / file.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)
        load(copied)  # whole, before anything says that there is a run
        os.replace(copied, run.imported)
        files = kept_files(experiment, module.config, data)
        run.claim({**record(experiment), IDENTITY: {**identity_of(data), **identity}}, files)
        claimed = {**files, run.config.name: ""}
        return prepare(experiment, data, run)
    except QtxError:
        for name in claimed:  # what is refused leaves nothing
            (workdir / name).unlink()
        raise
    except OSError as error:
        raise QtxError(f"cannot write the run's folder {workdir}: {error.strerror}") from error
    finally:
        shutil.rmtree(copied, ignore_errors=True)
        if not run.config.exists():
            shutil.rmtree(run.imported, ignore_errors=True)
        if workdir.is_dir() and not any(workdir.iterdir()):
            workdir.rmdir()


def _is_left(unfinished: Path) -> bool:
    """Whether who was copying a checkpoint there is no more: the import was killed."""
    try:
        os.kill(int(unfinished.name.removeprefix(UNFINISHED)), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OSError):
        return False
    return False


def check_model(model: TransformerConfig, there: TransformerConfig) -> None:
    """Raises QtxError if a config asks for another model than a checkpoint holds."""
    for field in differing_fields(model, there) - set(FROM_DATA):
        held = getattr(there, field)
        what = attention_text(held) if field == "attention" else repr(held)
        remedy = "leave it out; to change the model, train from its run, qtx train --config.start=..."
        if field == "head" and {held, getattr(model, field, None)} <= set(OF_TEXTS):
            remedy = f"leave it out, or say what the outputs mean by {PROBLEM_TYPE!r} in the checkpoint's config.json"
        raise QtxError(f"config.model.{field} is not what the checkpoint has, {what}: {remedy}")


def with_classes(experiment: Experiment, folder: Path) -> Experiment:
    """The same experiment; its labels are numbered as the checkpoint's are, if that names them and the config does
    not."""
    source, names = experiment.data.source, open_folder(folder).values.get("id2label")
    if not isinstance(source, TextLabels) or source.classes is not None or not isinstance(names, dict):
        return experiment
    classes = tuple(str(names.get(str(number))) for number in range(len(names)))
    unnamed = tuple(f"LABEL_{number}" for number in range(len(names)))  # as transformers has it
    objective = OBJECTIVES[experiment.objective]
    if classes == unnamed or not objective.labelled or objective.label_kind == NUMBERS:
        return experiment
    return dataclasses.replace(experiment, data=DataConfig(dataclasses.replace(source, classes=classes)))
