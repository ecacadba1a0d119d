"""This module makes a patient, for `qtx.pipeline.heal`, of what a user has: a checkpoint, or a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from qtx.data.config import EXAMPLE_OPTIONS
from qtx.families import FAMILIES
from qtx.foundation.config import section
from qtx.pipeline.analyze import examples_for
from qtx.pipeline.export import export_huggingface
from qtx.pipeline.importing import Found, config_of_checkpoint
from qtx.pipeline.run import TrainedRun, load_run
from qtx.training import RunFolder

OBJECTIVE, METRIC = "distill", "fidelity"
BATCH, SHORTEST = 8, 16
WINDOW, BATCH_OF_DECODERS = 256, 4
OF_DECODERS = 2e-4
"""The peak learning rate of a decoder, of 30 layers and width 576."""
SOURCE = "source"
"""The folder, in a healing's, of the checkpoint that a run was exported to."""


def patient_config(config: ConfigDict) -> ConfigDict:
    """Returns the config under which a checkpoint is imported to be healed: that of `config_of_checkpoint`, with texts
    of all lengths, as they will come, and options of training that suit the model's size."""
    config.objective = OBJECTIVE
    if "min_length" in config.data:
        config.data.min_length = min(SHORTEST, config.data.sequence_length)
    training, quantization = config.training, config.quantization
    layers, width = config.model.num_layers, config.model.width
    held_out = 2 * examples_for(12 * layers * width**2)  # a number is reported, and not only compared with another
    training.batch_size, training.eval_batches = BATCH, -(-held_out // BATCH)
    training.learning_rate = learning_rate(layers, width)
    if FAMILIES[config.family].config.causal:
        decoder_config(config)
    training.warmup_steps, training.weight_decay = 10, 0.0
    training.log_every = 20
    training.checkpoint_every = 60
    quantization.weight_estimator = "minmax"
    return config


def decoder_config(config: ConfigDict) -> None:
    """Changes a patient's config to that of a decoder: windows of running text, and every tensor on a grid, also those
    that the paper leaves."""
    config.data.min_length = None
    config.data.sequence_length = min(WINDOW, config.model.max_length)
    training = config.training
    training.eval_batches, training.batch_size = training.eval_batches * BATCH // BATCH_OF_DECODERS, BATCH_OF_DECODERS
    config.quantization.recipe = "strict"
    training.learning_rate = OF_DECODERS


def learning_rate(layers: int, width: int) -> float:
    """Returns the peak learning rate: measured on a sentence encoder of width 384, 4.5e-4 with 2 layers and 1.5e-4 with
    6, of which more costs floating point and less heals slowly; wider models take less."""
    return float(f"{9e-4 / layers * math.sqrt(384 / width):.2g}")


def patient_at(workdir: Path, folder: Path, other_data: bool) -> tuple[Found, ConfigDict]:
    """Returns the checkpoint of the run in a folder, at its newest parameters, and the checkpoint's config on the run's
    data; the other arguments are those of `as_checkpoint` and `config_on_data_of`."""
    run = load_run(workdir)
    source = as_checkpoint(run, folder)
    return source, config_on_data_of(run, source, other_data)


def config_on_data_of(run: TrainedRun, source: Found, other_data: bool) -> ConfigDict:
    """Returns the config of a run's checkpoint, from `config_of_checkpoint`, on the run's data. With `other_data`,
    which the user is to name, only examples are made as the run's."""
    config = config_of_checkpoint(source)
    recorded: Any = section(run.assembled.experiment.data)
    config.data.update({name: recorded[name] for name in (EXAMPLE_OPTIONS if other_data else recorded)})
    if config.data.tokenizer is not None:  # the checkpoint's own cuts the texts, and nothing is masked
        config.data.update({"tokenizer": str(source.folder.absolute()), "vocab_size": None, "mask_probability": None})
    return config


def as_checkpoint(run: TrainedRun, folder: Path) -> Found:
    """Returns the checkpoint that a run was imported from, or else an export of it into the folder of a healing."""
    files = RunFolder(run.workdir)
    if files.imported.is_dir() and run.checkpoint == 0:
        return Found(files.imported, files.identity().get("source", str(run.workdir)))
    export_huggingface(run, folder / SOURCE)
    return Found(folder / SOURCE, str(run.workdir))
