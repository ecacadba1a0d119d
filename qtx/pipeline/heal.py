"""This module heals a model that integers ruin: the model learns to stay what it is, with a limit on its weights and
with half of every batch quantized.

A healing is a row of runs in one folder: the original as it came, then stages, each of which starts from the stage
before and learns from the original. Stages are ordinary runs, so that an interrupted healing goes on where it was, with
the same numbers.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qtx.analysis.capture import FloatingPoint
from qtx.anatomy import read as read_anatomy
from qtx.attention import Sink, attention_text, attention_variant
from qtx.experiment import Experiment, record, recorded
from qtx.experiment import read as read_config
from qtx.families.in_words import model_in_words
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected, read_sealed_json, sealed_json, write_whole
from qtx.interop.contents import digest_of_folder
from qtx.pages.healing import Stage, Story
from qtx.pipeline.assemble import assemble
from qtx.pipeline.importing import Found, import_run
from qtx.pipeline.measure import measure, sums_of
from qtx.pipeline.measurements import find_result
from qtx.pipeline.patient import METRIC
from qtx.pipeline.quantize import quantize
from qtx.pipeline.relief import can_have_relief, find_relief, in_words
from qtx.pipeline.run import TrainedRun, restore_run, train_run
from qtx.pipeline.warmup import grown_from
from qtx.quantization.qat.config import QatConfig
from qtx.training import RunFolder
from qtx.training.evaluate import add_up
from qtx.training.optimizer import limited
from qtx.training.relief import ReliefConfig

FIRST_STAGE = 180
SMALLEST_STAGE = 30
ORIGINAL = "original"
EXPECTED = Expected("a healing of this version of qtx", "choose another --out")
PLATEAU = 0.002
"""The fidelity in integers that a stage has to add for another one to follow."""

LIMITS = (50.0, 35.0, 25.0, 18.0, 12.0, 8.0, 5.0)
"""Limits of weights, in root mean squares of their layer's tensor."""
AFFORDABLE = 0.94
"""The fidelity that clipping at a limit has to leave, in floating point and before any training."""
LIMIT_BATCHES = 2

NOISE_FROM, NOISE_LIMIT = 0.1, 1.0
"""For a decoder without a prefix: the share of updates before noise begins, and `QatConfig.noise_limit`."""
OF_A_HEALING = ("bits", "attention", "prefix")
"""The parts of an aim that make a healing another one."""


@dataclasses.dataclass(frozen=True)
class Aim:
    """An `Aim` says what a healing is to reach, and what it may cost.

    Attributes:
      bits: the scheme that the model is to survive, e.g. "w8a8", every tensor in a static range of its own.
      target: the fidelity that the quantized model is to have, on held-out examples.
      steps: how many updates to train, whatever is reached; None: until the target, `hours`, or a plateau.
      hours: how long it may take.
      attention: the attention that the healed model is to have; None: its own.
      prefix: whether a decoder may get keys and values before every text, which an attention with a place of its own
        to rest, as `attention` names one, does without.
      force: whether to heal a model that reaches the target as it came.

    Raises:
      QtxError: for values that cannot be.
    """

    bits: str = "w8a8"
    target: float = 0.98
    steps: int | None = None
    hours: float = 2.0
    attention: str | None = None
    prefix: bool = True
    force: bool = False

    def __post_init__(self):
        QatConfig(noise=self.bits)
        if not 0 < self.target < 1:
            raise QtxError(f"the target is {self.target}: expected a fidelity between 0 and 1, e.g. 0.98")
        if self.steps is not None and self.steps < SMALLEST_STAGE:
            raise QtxError(f"{self.steps} steps heal nothing: expected {SMALLEST_STAGE} or more")
        if not 0 < self.hours < math.inf:
            raise QtxError(f"hours are {self.hours}: expected a positive number")
        if self.attention is not None:
            attention_variant(self.attention)


def heal(
    patient: Experiment,
    source: Found,
    folder: Path,
    aim: Aim,
    command: str,
    tell: Callable[[str], Any] = lambda line: None,
) -> Story:
    """Heals a checkpoint, or goes on with an interrupted healing; returns what it did.

    Args:
      patient: the original's experiment, under `patient_config`.
      source: the checkpoint.
      folder: where the runs are.
      aim: what to reach.
      command: how a person repeats it, for the record.
      tell: is called with a line about each stage as it begins.

    Raises:
      QtxError: if the folder holds another healing, or training fails.
    """
    quantization = dataclasses.replace(patient.quantization, schemes=(aim.bits,))
    patient = dataclasses.replace(patient, quantization=quantization)
    file, claim = folder / "healing.json", _claim(source, aim)
    _check(file, claim)
    began = time.monotonic()
    original = import_run(patient, folder / ORIGINAL, source)
    write_whole({file: sealed_json(claim)})
    tell(f"measuring the original in {aim.bits.upper()}")
    run = restore_run(original, folder / ORIGINAL)
    stages = [_stage(run, aim.bits, began)]
    while isinstance(steps := what_next(stages, aim), int):
        at, began = folder / f"stage_{len(stages)}", time.monotonic()
        experiment = _experiment(patient, run, at, steps, aim, tell)
        training = experiment.training
        tell(f"stage {len(stages)}: {training.steps} updates, weights within {training.clip_weights:g} rms")
        run = train_run(assemble(experiment, workdir=at), at)
        stages.append(_stage(run, aim.bits, began))
    model = f"{model_in_words(original.experiment.model)}, {original.parameters:,} parameters"
    chosen = stages.index(max(stages, key=lambda stage: stage.quantized))
    relief = run.assembled.experiment.relief
    told = "" if relief == ReliefConfig() else in_words(run, relief)
    return Story(patient.name, model, original.data.description, aim.bits, stages, chosen, steps, command, relief=told)


def what_next(stages: Sequence[Stage], aim: Aim) -> int | str:
    """Returns how many updates the next stage gets: as many as all before it, or what the time allows; if there is no
    next stage, says in a sentence why."""
    last, done = stages[-1], sum(stage.steps for stage in stages)
    if not done and last.quantized >= aim.target and not aim.force:
        return f"As it came, the model has the {aim.target:g} that was asked for, and was left alone."
    if not done:
        return aim.steps or FIRST_STAGE
    if last.quantized >= aim.target:
        return f"It has the {aim.target:g} that was asked for."
    if aim.steps is not None:
        return f"It was asked for {aim.target:g} and for {aim.steps} updates, which were too few."
    if last.quantized - stages[-2].quantized < PLATEAU:
        return f"It was asked for {aim.target:g}; the last stage added less than {PLATEAU:g}."
    of_training = sum(stage.seconds for stage in stages if stage.steps)
    left = 3600 * aim.hours - sum(stage.seconds for stage in stages)
    steps = min(done, int(left * done / of_training))
    time_is_up = f"It was asked for {aim.target:g}, but its time of {aim.hours:g} h was up."
    return steps if steps >= SMALLEST_STAGE else time_is_up


def weight_limit(before: TrainedRun) -> float:
    """Returns the limit on weights, one of `LIMITS`, of the stage that starts from a run: one step below that of the
    run. The first stage, whose run is the original, has the smallest that the original can bear: at which clipping
    alone leaves it a fidelity of `AFFORDABLE`. So the useful large weights go in steps, and each has a stage to be
    replaced in."""
    assembled, params = before.assembled, before.floating_point
    reached = assembled.experiment.training.clip_weights
    if reached is not None:
        return max((limit for limit in LIMITS if limit < reached), default=reached)
    batches = list(itertools.islice(assembled.evaluation(), LIMIT_BATCHES))
    parameters = read_anatomy(assembled.module, batches[0]).parameters

    def bearable(limit: float) -> bool:
        model = FloatingPoint(assembled.module, limited(params, limit, parameters))
        return add_up(sums_of(assembled, model), batches)[METRIC] >= AFFORDABLE

    return ([*itertools.takewhile(bearable, LIMITS)] or [LIMITS[0]])[-1]


def _experiment(
    patient: Experiment, before: TrainedRun, folder: Path, steps: int, aim: Aim, tell: Callable[[str], Any]
) -> Experiment:
    """Returns the experiment of a stage: the one that is there already, or one that starts from the stage before."""
    if RunFolder(folder).config.exists():
        return load_experiment(folder)
    there = before.assembled.experiment
    relief, model = there.relief, there.model
    if not before.checkpoint and can_have_relief(before):
        prefix = aim.prefix and aim.attention is None
        tell(f"looking for {'what may stand before every text, and for ' * prefix}hidden units that write spikes")
        relief = find_relief(before, aim.bits, prefix, tell)
        tell(f"taken: {in_words(before, relief)}")
        model = dataclasses.replace(model, prefix=len(relief.prefix)) if relief.prefix else model
    ruined = model.causal and not relief.prefix  # by integers: the gradient of their half would be all there is
    qat = QatConfig(
        noise=aim.bits,
        noise_from=round(NOISE_FROM * steps) if ruined and not before.checkpoint else 0,
        noise_limit=NOISE_LIMIT if ruined else None,
    )
    experiment = dataclasses.replace(
        patient,
        start=str(before.workdir),
        relief=relief,
        # Quantization noise keeps several arrays a site: 30 layers of SmolLM2 took 21 GB without.
        model=dataclasses.replace(model, dropout=0.0, attention_dropout=0.0, remat="dots" if model.causal else "none"),
        training=dataclasses.replace(
            patient.training,
            steps=steps,
            warmup_steps=min(patient.training.warmup_steps, steps - 1),
            clip_weights=weight_limit(before),
            eval_every=-(-steps // 2),
            outliers_every=-(-steps // 2),
        ),
        qat=qat,
    )
    if aim.attention is None or before.checkpoint:  # a stage has the attention that is wanted
        return experiment
    wanted = grown_from(there, experiment, attention_variant(aim.attention))
    sinks = there.model.causal and isinstance(wanted.normalizer, Sink)
    return dataclasses.replace(
        experiment,
        model=dataclasses.replace(experiment.model, attention=wanted),
        relief=dataclasses.replace(relief, sinks=sinks),
    )


def _claim(source: Found, aim: Aim) -> dict[str, Any]:
    """Returns what makes a healing another one."""
    return {"checkpoint": digest_of_folder(source.folder), **{name: getattr(aim, name) for name in OF_A_HEALING}}


def _check(file: Path, claim: dict[str, Any]) -> None:
    """Raises QtxError if a folder's file says that it is of another healing than is claimed."""
    there = {"prefix": True} | read_sealed_json(file, EXPECTED) if file.exists() else claim
    other = [f"{name} is {there.get(name)}" for name, value in claim.items() if there.get(name) != value]
    if other:
        raise QtxError(f"{file.parent} has another healing, whose {', '.join(other)}: choose another --out")


def _stage(run: TrainedRun, bits: str, began: float) -> Stage:
    """Returns a run as a stage, measured now or earlier."""
    experiment = run.assembled.experiment
    quantization, number = record(experiment)["quantization"], experiment.training.eval_batches
    found = find_result(RunFolder(run.workdir), run.checkpoint, number, quantization)
    if found is None:
        found = measure(run, quantize(run), attention_text(experiment.model.attention), began)
    return Stage(
        run.workdir,
        run.checkpoint,
        experiment.training.clip_weights,
        found["fp"],
        found["quantized"][bits],
        found["max_inf_norm"],
        found["seconds"],
        (found["perplexity"], found["quantized_perplexity"][bits]) if "quantized_perplexity" in found else None,
    )


def load_experiment(folder: Path) -> Experiment:
    """Returns the experiment that a run recorded."""
    return read_config(recorded(folder))
