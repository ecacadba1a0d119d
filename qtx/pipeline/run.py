"""A `TrainedRun` is a run with its parameters: everything after training works on it."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from qtx.attention import attention_text
from qtx.experiment import Experiment, read, record, recorded
from qtx.foundation.errors import QtxError
from qtx.pipeline.assemble import Assembled, assemble
from qtx.pipeline.train import train
from qtx.pipeline.warmup import attention_at
from qtx.quantization import Quantized
from qtx.quantization.qat.config import QatConfig
from qtx.training import NEWEST, RunFolder, find_checkpoint, load_params
from qtx.training.run_folder import IDENTITY, differences, other_contents


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run at one of its checkpoints.

    Attributes:
      assembled: the run's experiment, on the data that the run is measured on.
      params: the trained parameters: of `assembled.trained`.
      workdir: the run's folder.
      checkpoint: the number of updates done.
      own_data: whether the data are those that the run was trained on.
      warming: the attention at the checkpoint, in words, if the checkpoint is within the attention's warm-up.
    """

    assembled: Assembled
    params: Any
    workdir: Path
    checkpoint: int
    own_data: bool = True
    warming: str = ""

    @property
    def title(self) -> str:
        """Returns a title for tables: the run, the checkpoint, and what is unusual about attention and data."""
        used, total = self.assembled.held_out_batches
        title = f"{self.workdir}, checkpoint {self.checkpoint}"
        title += f", within the warm-up: {self.warming}" if self.warming else ""
        title += "" if self.own_data else ", other data than it was trained on"
        return title + ("" if used == total else f", first {used} of {total} held-out batches")

    @property
    def floating_point(self) -> Any:
        """Returns the model's own parameters, without those of quantizers."""
        return self.params if self.assembled.qat is None else self.params["model"]

    @functools.cached_property
    def trained_schemes(self) -> dict[str, Quantized]:
        """Returns the model with learned ranges, by the scheme that the run was trained under; empty if under none."""
        qat = self.assembled.qat
        return {} if qat is None else {self.assembled.experiment.qat.scheme: qat.quantized(self.params)}

    def with_quantization(self, **options: Any) -> TrainedRun:
        """Returns the run under other options of `config.quantization`, e.g. `weight_estimator="mse"`.

        Raises:
          QtxError: if an option is refused.
        """
        quantization = dataclasses.replace(self.assembled.experiment.quantization, **options)
        experiment = dataclasses.replace(self.assembled.experiment, quantization=quantization)
        return dataclasses.replace(self, assembled=dataclasses.replace(self.assembled, experiment=experiment))


def load_run(workdir: str | Path, checkpoint: str = NEWEST) -> TrainedRun:
    """Loads the run in a folder, as it was recorded, at a checkpoint: newest, best, or a step.

    Raises:
      QtxError: if there is no such run or checkpoint, it is damaged, or the run's data or start have changed.
    """
    folder = Path(workdir)
    assembled, own_data = assemble_run(read(recorded(folder)), folder, names_data=False)
    return restore_run(assembled, folder, checkpoint, own_data)


def train_run(assembled: Assembled, workdir: Path, profile: bool = False) -> TrainedRun:
    """Trains or resumes the run in `workdir`, or takes it if it is finished."""
    result = train(assembled, workdir, profile)
    return TrainedRun(assembled, result.params, workdir, result.step)


def assemble_run(experiment: Experiment, workdir: Path, names_data: bool) -> tuple[Assembled, bool]:
    """Prepares the experiment of the run in a folder, and says whether its data are those that the run was trained on.

    Args:
      experiment: the run's experiment, on the run's own or on other data.
      workdir: the run's folder.
      names_data: whether the user has named the data, and knows that they may be others.

    Raises:
      QtxError: if the folder holds another experiment's run; or the data are not what the run was trained on, and
        nobody said so.
    """
    check_run(experiment, workdir)
    assembled = assemble(experiment, workdir=workdir)
    return assembled, uses_own_data(assembled, workdir, names_data)


def assemble_exported(experiment: Experiment, folder: Path, names_data: bool = False) -> Assembled:
    """Prepares the experiment of a model in integers, in the folder that it was exported to, as `assemble_run`."""
    check_run(experiment, folder)
    assembled = assemble(dataclasses.replace(experiment, qat=QatConfig()), workdir=folder)
    uses_own_data(assembled, folder, names_data)
    return assembled


def restore_run(assembled: Assembled, workdir: Path, checkpoint: str = NEWEST, own_data: bool = True) -> TrainedRun:
    """Loads the run of `assemble_run` at a checkpoint: newest, best, or a step.

    Raises:
      QtxError: if there is no such checkpoint, or it is damaged (see `load_params`).
    """
    step, mesh = find_checkpoint(workdir, checkpoint), assembled.experiment.mesh
    assembled, warming = at_step(assembled, workdir, step)
    params = load_params(assembled.trained, assembled.data, workdir, mesh, str(step))
    return TrainedRun(assembled, params, workdir, step, own_data, warming)


def at_step(assembled: Assembled, workdir: Path, step: int) -> tuple[Assembled, str]:
    """Returns a run of `assemble_run` with the attention that the run had at a checkpoint, to which the parameters
    there belong, and, if that is within the warm-up, the attention in words."""
    model = assembled.experiment.model
    attention = attention_at(assembled.experiment, workdir, step)
    if attention == model.attention:
        return assembled, ""
    return assembled.with_model(dataclasses.replace(model, attention=attention)), attention_text(attention)


def check_run(experiment: Experiment, workdir: Path) -> None:
    """Raises QtxError unless `workdir` holds a run of this experiment, on whatever data."""
    folder = RunFolder(workdir)
    folder.check(folder.read_config(), record(experiment), other_data=True)


def uses_own_data(assembled: Assembled, workdir: Path, named: bool) -> bool:
    """Says whether the data are those that the run in `workdir` was trained on.

    Args:
      assembled: the experiment, which `check_run` has passed.
      workdir: the run's folder.
      named: whether the user has named the data, and knows that they may be others.

    Raises:
      QtxError: if the data are others and nobody said so, or another tokenizer cuts them.
    """
    there = RunFolder(workdir).read_config()
    other = other_contents(there, {IDENTITY: assembled.identity})
    # Other data on the command line, or in its config file, count as named too.
    named = named or bool(differences({"data": there["data"]}, {"data": record(assembled.experiment)["data"]}))
    if other and (not named or assembled.identity.get("tokenizer") != there[IDENTITY].get("tokenizer")):
        raise QtxError(
            f"{workdir} was trained on other data: config.data is the same, but what it names has another content: "
            f"{', '.join(other)}; restore it, or name the data to measure on, e.g. --config.data.source="
            f"{assembled.experiment.data.name}"
        )
    return not other
