"""This module makes a run of an existing checkpoint: at step 0, with the checkpoint's files and its own tokenizer."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from qtx.attention import AttentionConfig, attention_text
from qtx.builtin import builtin_checkpoint
from qtx.data import OBJECTIVES, Data, DataConfig, load_tokenizer
from qtx.data.config import SOURCE
from qtx.data.prompts import read_prompts
from qtx.data.tokenizer_settings import longest_text
from qtx.experiment import Experiment, default, record
from qtx.families import FAMILIES, family_of
from qtx.families.checkpoints.bert import PROBLEM_TYPE
from qtx.families.in_words import embedding_in_words
from qtx.foundation.config import read_section, section
from qtx.foundation.errors import QtxError
from qtx.foundation.paths import at_home
from qtx.interop import load
from qtx.interop.class_names import class_names
from qtx.interop.contents import digest_of_folder, files_of
from qtx.interop.hub import fetch
from qtx.interop.pixels import pixel_options
from qtx.interop.stored import ATTENTION_KEY, open_folder
from qtx.models import MEASURED_BY, TransformerConfig, differing_options
from qtx.models.bert import OF_TEXTS
from qtx.pipeline.assemble import Assembled, assemble
from qtx.pipeline.classes import has_labels
from qtx.pipeline.identity import kept_files, load_data
from qtx.pipeline.start_check import FREE_OPTIONS
from qtx.pipeline.teacher import teacher_of
from qtx.training.run_folder import IDENTITY, RunFolder

BUILTIN = "builtin:"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
SEQUENCE_LENGTH = 128
UNFINISHED = ".imported."
"""The prefix of the folder of an import until it is whole; the number of the importing process follows."""


@dataclasses.dataclass(frozen=True)
class Found:
    """A checkpoint that a name leads to.

    Attributes:
      folder: the checkpoint's folder.
      source: the checkpoint's origin, for the record.
    """

    folder: Path
    source: str


def found(checkpoint: str) -> Found:
    """Finds a checkpoint by its name: a folder; a built-in one, `builtin:NAME`; or one of the Hugging Face Hub,
    `ORGANIZATION/NAME` or `ORGANIZATION/NAME@REVISION`, which is fetched.

    Raises:
      QtxError: if there is no such checkpoint.
    """
    if checkpoint.startswith(BUILTIN):
        return Found(builtin_checkpoint(checkpoint.removeprefix(BUILTIN)), checkpoint)
    folder = at_home(checkpoint)
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


def config_of_checkpoint(checkpoint: Found, names_source: bool = False) -> ConfigDict:
    """Returns the config of the run that a checkpoint makes: its model, and built-in data for the objective of its
    head, cut by its own tokenizer, or with the pixels that its image processor makes. A model without a head, or whose
    head needs labels, is measured by its original outputs (objective `distill`).

    Args:
      checkpoint: the checkpoint, from `found`.
      names_source: whether the user names a source of data; images of such a source have labels.

    Raises:
      QtxError: if qtx cannot read the checkpoint, or it has no tokenizer.
    """
    folder = checkpoint.folder
    stored = open_folder(folder)
    model: Any = stored.config(None)
    name = next(name for name, family in FAMILIES.items() if family is family_of(model))
    config = default(name)
    config.name = Path(checkpoint.source.partition("@")[0]).resolve().name.removeprefix(BUILTIN)
    config.model = section(model)
    objective = objective_of(model)
    source = OBJECTIVES[objective].built_in_sources[model.reads]
    config.objective = objective
    if names_source and model.reads == "images" and model.head == "classification":
        config.objective = "classification"
    if model.reads == "images":
        options = pixel_options(stored, model.image_size, model.channels)
    else:
        load_tokenizer(folder)
        told = longest_text(folder)
        longest = min(getattr(model, "max_length", SEQUENCE_LENGTH), SEQUENCE_LENGTH if told is None else told[0])
        options = {"tokenizer": str(folder.absolute()), "sequence_length": min(SEQUENCE_LENGTH, longest)}
        if embedding_in_words(model) and (prompt := read_prompts(folder).default):
            options["prompt"] = prompt
    config.data = section(DataConfig(SOURCE.make("source", source, options)))
    config.data.update(options)  # also those at this source's defaults: another source may have others
    return config.lock()


def objective_of(model: TransformerConfig) -> str:
    """Returns the objective that a model was trained for, if plain text serves it; else `distill`, to stay as it is."""
    head = getattr(model, "head", None)
    return family_of(model).objectives[0] if head in (None, "mlm", "clm") else "distill"


def import_run(experiment: Experiment, workdir: Path, checkpoint: Found, data: Data | None = None) -> Assembled:
    """Makes the run of a checkpoint in `workdir`; a run of the same checkpoint that is there already stays.

    Args:
      experiment: the experiment, from `config_of_checkpoint`, on data of the user's choice.
      workdir: the run's folder.
      checkpoint: the checkpoint, from `found`.
      data: the experiment's data, if loaded already.

    Raises:
      QtxError: if the model and the data do not fit, or `workdir` holds another run.
    """
    run, folder = RunFolder(workdir), checkpoint.folder
    check_model(experiment.model, stored_model(folder, experiment.model.attention))
    check_length(experiment.data, folder)
    identity = {"imported": digest_of_folder(folder), "source": checkpoint.source}
    if run.config.exists():
        there = run.identity()
        if there.get("imported") != identity["imported"]:
            raise QtxError(f"{workdir} holds another run: choose another --workdir, or delete this one")
        kept, now = run.read_config(), record(experiment)
        run.check(kept, now)
        measured_by = {name: now["model"][name] for name in MEASURED_BY if name in now["model"]}
        run.write_config({**kept, "model": {**kept["model"], **measured_by}})
        return assemble(experiment, data, workdir)
    left = [file for file in workdir.glob(f"{UNFINISHED}*") if _is_left(file)] if workdir.is_dir() else []
    if workdir.exists() and any(file not in left for file in workdir.iterdir()):
        raise QtxError(f"{workdir} is not empty, and holds no run: choose another --workdir")
    data = load_data(experiment, classes=classes_of(experiment, folder)) if data is None else data
    unfinished = RunFolder(workdir / f"{UNFINISHED}{os.getpid()}")
    try:
        for file in left:
            shutil.rmtree(file)
        for file in files_of(folder):
            target = unfinished.imported / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        # Whatever may be refused comes before anything says that there is a run.
        assembled = assemble(experiment, data, unfinished.root)
        load(unfinished.imported, assembled.experiment.model.attention)
        os.replace(unfinished.imported, run.imported)
        config = {**record(assembled.experiment), IDENTITY: {**assembled.identity, **identity}}
        run.claim(config, kept_files(assembled.experiment, data))
        return dataclasses.replace(assembled, teacher=teacher_of(assembled.experiment, data, workdir))
    except OSError as error:
        raise QtxError(f"cannot write the run's folder {workdir}: {error.strerror}") from error
    except QtxError as error:  # the user has never seen the copy
        raise QtxError(str(error).replace(str(unfinished.imported), str(folder))) from None
    finally:
        shutil.rmtree(unfinished.root, ignore_errors=True)
        if not run.config.exists():
            shutil.rmtree(run.imported, ignore_errors=True)
        if workdir.is_dir() and not any(workdir.iterdir()):
            workdir.rmdir()


def _is_left(unfinished: Path) -> bool:
    """Says whether the process of an unfinished import is gone: it was killed."""
    try:
        os.kill(int(unfinished.name.removeprefix(UNFINISHED)), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OSError):
        return False
    return False


def check_attention_length(config: ConfigDict) -> None:
    """Raises QtxError if the attention needs a training length that neither the checkpoint nor the config tells."""
    model = read_section(FAMILIES[config.family].config, config.model, "config.model").resolved()
    if model.trained_at(1) != model:
        raise QtxError(
            f"attention {attention_text(model.attention)!r} is relative to the length that the model was trained at, "
            "which the checkpoint does not tell: name it, e.g. --config.model.attention.length=128"
        )


def stored_model(folder: Path, named: AttentionConfig) -> TransformerConfig:
    """Returns the config of a checkpoint's model. The attention that the user has named supplies what the checkpoint
    does not note: a length, or, in a checkpoint that qtx did not write, the normalizer; the weights show the gate."""
    stored = open_folder(folder)
    if ATTENTION_KEY not in stored.values:
        return stored.config(AttentionConfig(named.normalizer, stored.checkpoint.attention.gate))
    there, length = stored.config(None), named.normalizer.length
    return there if length is None else there.trained_at(length)


def check_model(model: TransformerConfig, there: TransformerConfig) -> None:
    """Raises QtxError if a config asks for another model than a checkpoint holds."""
    for option in differing_options(model, there):
        held = getattr(there, option)
        what = attention_text(held) if option == "attention" else repr(held)
        change = "; to change it, train from the checkpoint's run, qtx train --config.start=..."
        remedy = f"leave it out{change if option in FREE_OPTIONS else ''}"
        if option == "head" and {held, getattr(model, option, None)} <= set(OF_TEXTS):
            remedy = f"leave it out, or say what the outputs mean by {PROBLEM_TYPE!r} in the checkpoint's config.json"
        raise QtxError(f"config.model.{option} is not what the checkpoint has, {what}: {remedy}")


def classes_of(experiment: Experiment, folder: Path) -> tuple[str, ...] | None:
    """Returns the classes that number the labels of a checkpoint's experiment; None: the data have no labels."""
    return class_names(open_folder(folder), experiment.model.num_classes) if has_labels(experiment) else None


def check_length(data: DataConfig, folder: Path) -> None:
    """Raises QtxError if the config asks for longer texts than a checkpoint's files allow."""
    wanted, told = getattr(data.source, "sequence_length", None), longest_text(folder)
    if wanted is not None and told is not None and wanted > told[0]:
        longest, file = told
        raise QtxError(
            f"config.data.sequence_length is {wanted}, but {folder / file} says that texts have at most {longest} "
            f"tokens: set it to {longest} or less"
        )
