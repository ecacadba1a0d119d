"""This module checks that a run can start from another run, whose parameters must mean the same in its own model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qtx.attention import attention_text
from qtx.attention.conversion import without_warmup
from qtx.experiment import Experiment
from qtx.foundation.errors import QtxError
from qtx.models import differing_options
from qtx.pipeline.lineage import config_of
from qtx.pipeline.warmup import attention_at, grown_from
from qtx.training.loading import find_checkpoint
from qtx.training.relief import ReliefConfig
from qtx.training.run_folder import RunFolder

# Options of the model in which a run may differ from its start: another attention is converted, another head is new.
FREE_OPTIONS = ("attention", "head", "num_classes")


def check_start(experiment: Experiment, workdir: Path, identity: Mapping[str, str]) -> None:
    """Raises QtxError unless a run in `workdir` can start from `config.start`; see `identity_of` for the `identity`."""
    start = experiment.start
    if not start:
        return
    if Path(start).resolve() == workdir.resolve():
        raise QtxError(f"config.start={start} is the run's own folder: choose another --workdir")
    if RunFolder(workdir).checkpoints.is_dir():
        return  # the run has started already
    there = config_of(start)
    if there.qat.scheme:
        raise QtxError(
            f"config.start={start} is itself a run of quantization-aware training: start from {there.start}, from "
            "which it started"
        )
    differing = [f"family ({there.family} there, {experiment.family} here)"]
    if there.family == experiment.family:
        differing = [
            f"model.{name} ({getattr(there.model, name)} there, {getattr(experiment.model, name)} here)"
            for name in differing_options(experiment.model, there.model)
            if name not in FREE_OPTIONS and not (name == "prefix" and experiment.relief.prefix)
        ]
    if there.relief not in (ReliefConfig(), experiment.relief):
        differing.append(f"relief ({there.relief} there, {experiment.relief} here)")
    if differing:
        raise QtxError(f"config.start={start} is a run of another model: {', '.join(differing)}; give its --config")
    step, normalizer = find_checkpoint(start), there.model.attention.normalizer
    if attention_at(there, Path(start), step) != there.model.attention:
        raise QtxError(
            f"config.start={start} is at step {step}, within the warm-up of its attention ({normalizer.warmup} is "
            f"{normalizer.warmup_steps}): train it further first"
        )
    wanted = experiment.model.attention
    attention = grown_from(there, experiment, wanted)
    # Quantizers see attention as it is after its warm-up.
    if attention != (without_warmup(wanted) if experiment.qat.scheme else wanted):
        raise QtxError(
            f"config.model.attention is {attention_text(experiment.model.attention)!r}, with which the model of "
            f"config.start={start} would be another one at once: expected {attention_text(attention)!r}"
        )
    if experiment.qat.scheme and attention != without_warmup(there.model.attention):
        raise QtxError(
            f"config.start={start} has attention {attention_text(there.model.attention)!r}: quantization-aware "
            "training has no warm-up; convert it first, by a run without config.qat.scheme"
        )
    tokenizer = RunFolder(Path(start)).identity().get("tokenizer")
    if tokenizer != identity.get("tokenizer"):
        raise QtxError(
            f"config.start={start} has another tokenizer than the data of this run: choose another --workdir, or leave "
            "config.data.tokenizer out, if it is set"
        )
