"""The attention of a run changes as it trains: at step 0 it computes what the run's start does, at a checkpoint within
its warm-up what it has grown to by then, and afterwards what the config says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from qtx.attention import AttentionConfig
from qtx.attention.conversion import converted_attention
from qtx.experiment import Experiment
from qtx.foundation.errors import QtxError
from qtx.pipeline.lineage import config_of
from qtx.training.run_folder import RunFolder

WARMUP_SHARE = 0.1


def converted(experiment: Experiment) -> Experiment:
    """Returns an experiment with its attention made the same function as its start's at step 0."""
    attention = grown_from(config_of(experiment.start), experiment, experiment.model.attention)
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, attention=attention))


def grown_from(there: Experiment, experiment: Experiment, wanted: AttentionConfig) -> AttentionConfig:
    """Returns the wanted attention, made the same function at step 0 as the attention of the start, `there`; one that
    has no warm-up gets one of a tenth of training (see `qtx.attention.conversion`).

    Raises:
      QtxError: if no warm-up leads from the one to the other.
    """
    warmup_steps = max(1, round(WARMUP_SHARE * experiment.training.steps))
    try:
        return converted_attention(wanted, there.model.attention, warmup_steps)
    except QtxError as error:
        raise QtxError(f"config.start={experiment.start}: {error}") from None


def attention_at(experiment: Experiment, workdir: Path, step: int) -> AttentionConfig:
    """Returns the attention of the run in `workdir` at a checkpoint: within a warm-up, what it has grown to by then.
    The final one holds for an imported model, trained elsewhere, and with quantizers, which compute as after the
    warm-up."""
    attention = experiment.model.attention
    if experiment.qat.scheme or RunFolder(workdir).imported.is_dir():
        return attention
    return AttentionConfig(attention.normalizer.at(step), attention.gate)
