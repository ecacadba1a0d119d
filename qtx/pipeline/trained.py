"""A run with its parameters: what everything after training works on."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from qtx.attention import attention_text
from qtx.experiment import Experiment, read, record, recorded
from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.pipeline.prepare import Prepared, prepare
from qtx.pipeline.start import attention_at
from qtx.pipeline.train import train
from qtx.quantization import Quantized
from qtx.training import NEWEST, RunFolder, find_checkpoint, load_params
from qtx.training.run_folder import IDENTITY, other_contents


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run at one of its checkpoints.

    Attributes:
      prepared: its experiment, on the data that it is measured on.
      params: those that were trained: of `prepared.qat` if there is one.
      workdir: its folder.
      checkpoint: updates done.
      own_data: whether the data are those that it was trained on.
      warming: the attention that it had there, in words, if the checkpoint is within its warm-up.
    """

    prepared: Prepared
    params: Any
    workdir: Path
    checkpoint: int
    own_data: bool = True
    warming: str = ""

    @property
    def title(self) -> str:
        """For tables: which run, which checkpoint, and what is unusual about the data."""
        used, total = self.prepared.held_out_batches
        title = f"{self.workdir}, checkpoint {self.checkpoint}"
        title += f", within the warm-up: {self.warming}" if self.warming else ""
        title += "" if self.own_data else ", other data than it was trained on"
        return title + ("" if used == total else f", first {used} of {total} held-out batches")

    @property
    def floating_point(self) -> Any:
        """The model's own parameters."""
        return self.params if self.prepared.qat is None else self.params["model"]

    @functools.cached_property
    def trained_schemes(self) -> dict[str, Quantized]:
        """The scheme that it was trained under, with its learned ranges; none without quantization-aware training."""
        qat = self.prepared.qat
        return {} if qat is None else {self.prepared.experiment.qat.scheme: qat.quantized(self.params)}

    def with_quantization(self, **options: Any) -> TrainedRun:
        """The same run under other options of `config.quantization`, e.g. `weight_estimator="mse"`.

        Raises:
          QtxError: if an option is refused.
        """
        quantization = dataclasses.replace(self.prepared.experiment.quantization, **options)
        experiment = dataclasses.replace(self.prepared.experiment, quantization=quantization)
        return dataclasses.replace(self, prepared=dataclasses.replace(self.prepared, experiment=experiment))


def load_run(workdir: str | Path, checkpoint: str = NEWEST) -> TrainedRun:
    """The run in a folder, as it was recorded, at a checkpoint: newest, best, or a step.

    Raises:
      QtxError: if there is no such run or checkpoint, it is damaged, or its data or its start are not what they were.
    """
    folder = Path(workdir)
    prepared, own_data = prepare_run(read(recorded(folder)), folder, names_data=False)
    return restore_run(prepared, folder, checkpoint, own_data)


def train_run(prepared: Prepared, workdir: Path, profile: bool = False) -> TrainedRun:
    """Trains, resumes, or takes the finished run in `workdir`."""
    result = train(prepared.experiment, workdir, prepared.data, profile, prepared.teacher)
    return TrainedRun(prepared, result.params, workdir, result.step)


def prepare_run(experiment: Experiment, workdir: Path, names_data: bool) -> tuple[Prepared, bool]:
    """The experiment of the run in a folder, ready, and whether its data are those that the run was trained on.

    Args:
      experiment: the run's, on its own or on other data.
      workdir: its folder.
      names_data: whether the user has named the data, and knows that they may be others.

    Raises:
      QtxError: if the folder holds another experiment's run; or the data are not what the run was trained on, and
        nobody said so.
    """
    check_run(experiment, workdir)
    prepared = prepare(experiment, run=RunFolder(workdir))
    return prepared, uses_own_data(prepared, workdir, names_data)


def restore_run(prepared: Prepared, workdir: Path, checkpoint: str = NEWEST, own_data: bool = True) -> TrainedRun:
    """The run of `prepare_run` at a checkpoint: newest, best, or a step.

    Raises:
      QtxError: if there is no such checkpoint, or it is damaged (see `load_params`).
    """
    step, mesh = find_checkpoint(workdir, checkpoint), prepared.experiment.mesh
    prepared, warming = at_step(prepared, workdir, step)
    params = load_params(prepared.qat or prepared.module, prepared.data, workdir, mesh, str(step))
    return TrainedRun(prepared, params, workdir, step, own_data, warming)


def at_step(prepared: Prepared, workdir: Path, step: int) -> tuple[Prepared, str]:
    """A run of `prepare_run` with the attention that it had at a checkpoint: within its warm-up another one than it
    grows into, to which alone the parameters there belong, and then also its text."""
    model = prepared.experiment.model
    attention = attention_at(prepared.experiment, workdir, step)
    if attention == model.attention:
        return prepared, ""
    experiment = dataclasses.replace(prepared.experiment, model=dataclasses.replace(model, attention=attention))
    there = dataclasses.replace(prepared, experiment=experiment, module=build(experiment.model))
    return there, attention_text(attention)


def check_run(experiment: Experiment, workdir: Path) -> None:
    """Raises QtxError unless `workdir` holds a run of this experiment, on whatever data."""
    folder = RunFolder(workdir)
    folder.check(folder.read_config(), record(experiment), other_data=True)


def uses_own_data(prepared: Prepared, workdir: Path, named: bool) -> bool:
    """Whether the data are those that the run in `workdir` was trained on.

    Args:
      prepared: the experiment, which `check_run` has passed.
      workdir: the run's folder.
      named: whether the user has named the data, and knows that they may be others.

    Raises:
      QtxError: if they are not, and nobody said so; or are cut by another tokenizer.
    """
    there = RunFolder(workdir).read_config()
    other = other_contents(there, {IDENTITY: prepared.identity})
    # What names other data on the command line, a config file included, says so too.
    named = named or record(prepared.experiment)["data"] != there["data"]
    if other and (not named or prepared.identity.get("tokenizer") != there[IDENTITY].get("tokenizer")):
        raise QtxError(
            f"{workdir} was trained on other data: config.data is the same, but what it names has another content: "
            f"{', '.join(other)}; restore it, or name the data to measure on, e.g. --config.data.source="
            f"{prepared.experiment.data.name}"
        )
    return not other
