"""The training loop: the same for one device and for many, from the first step or from a checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qtx.foundation.distributed import is_main
from qtx.foundation.errors import QtxError
from qtx.losses import Loss
from qtx.training.checkpoints import Checkpoints, Restored
from qtx.training.config import TrainingConfig
from qtx.training.distillation import Teacher
from qtx.training.feed import Feed
from qtx.training.milestones import EVALUATION, OUTLIERS, Due, Milestones
from qtx.training.preemption import preemption
from qtx.training.profile import Profile
from qtx.training.program import Program, make_program
from qtx.training.progress import ProgressLine
from qtx.training.reporter import Reporter
from qtx.training.run_folder import NOTHING, RunFolder
from qtx.training.sharding import ALL_DEVICES, MeshConfig, check_batch, make_mesh, process_part
from qtx.training.step import CROSS_ENTROPY, Trainable
from qtx.training.watch import Watch
from qtx.training.writers import MetricWriter, read_metrics

LOSS_AND_SPEED = Watch()


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The result of a finished run.

    Attributes:
      step: updates done.
      params: the trained parameters, on the mesh.
      metrics: the metrics of the last evaluation (see `qtx.training.evaluate`).
      workdir: the run's folder.
    """

    step: int
    params: Any
    metrics: dict[str, float]
    workdir: Path


def fit(
    module: Trainable,
    data: Any,
    training: TrainingConfig,
    *,
    workdir: str | Path,
    config: Mapping[str, Any],
    files: Mapping[str, str] = NOTHING,
    mesh_config: MeshConfig = ALL_DEVICES,
    seed: int = 0,
    initial: Callable[[], Any] | None = None,
    loss: Loss = CROSS_ENTROPY,
    teacher: Teacher | None = None,
    watch: Watch = LOSS_AND_SPEED,
) -> TrainResult:
    """Trains a model, or goes on where an interrupted run of the same config was; returns at once if it is finished.

    The result does not depend on interruptions: state, data position and dropout keys are those of an unbroken run, and
    so are the logged losses. (On GPUs this holds as far as XLA's kernels are deterministic:
    `XLA_FLAGS=--xla_gpu_deterministic_ops=true`.)

    Args:
      module: a qtx model, or another `Trainable`.
      data: has `train(batch_size, seed, process_index, process_count)`, an endless iterator over this process's part of
        the batches, with `get_state()` and `set_state()` of a position that is the same on every process, and perhaps
        `close()`; and `evaluation(batch_size, process_index, process_count)`, this process's part of the held-out
        batches.
      training: the training options.
      workdir: the run's folder; created if absent.
      config: the config that defines the run, of JSON types; kept in the folder and in each checkpoint, and compared
        when the run goes on.
      files: the files that the folder keeps from the start, name to text; see `RunFolder.claim`.
      mesh_config: the devices; a run may go on with others.
      seed: the seed of the initial parameters, the order of the data, and dropout.
      initial: returns the parameters to start from, which are evaluated before the first update; called only if the run
        starts. None: random parameters.
      loss: the loss that the model is trained on and measured by.
      teacher: the model whose outputs the loss compares with, instead of labels; None: no teacher.
      watch: what is watched besides loss and speed.

    Raises:
      Preempted: on SIGTERM, once the state is saved.
      QtxError: if mesh, batch and folder do not fit, another process trains in the folder, it cannot be written, its
        checkpoints are damaged or of another run, or `training.max_bad_steps` updates in a row are not finite.
    """
    if not 0 <= seed < 2**32:
        raise QtxError(f"seed is {seed}: expected an integer from 0 to 2**32 - 1")
    mesh = make_mesh(mesh_config)
    check_batch(mesh, training.batch_size, training.accumulation_steps)
    folder, part, key = RunFolder(Path(workdir)), process_part(mesh), np.uint32(seed)
    with contextlib.ExitStack() as stack:
        if is_main():
            stack.enter_context(folder.lock())
        folder.claim(config, files, write=is_main())
        preempted = stack.enter_context(preemption())
        feed = stack.enter_context(contextlib.closing(Feed(data, training, seed, mesh, part, teacher)))
        program = make_program(module, training, mesh, feed.example, loss)
        progress = stack.enter_context(ProgressLine(training.steps, enabled=is_main()))
        checkpoints = stack.enter_context(
            Checkpoints(folder.checkpoints, training.keep_checkpoints, training.keep_best)
        )

        restored = checkpoints.restore_newest(program.abstract_state, config, progress.warn)
        done, state, position, pending = (
            _tolerated(restored, training) if restored else _begun(program, feed, initial, key)
        )
        feed.go_to(position)
        if done == training.steps and not pending:
            return TrainResult(done, state.params, _last_evaluation(folder), folder.root)
        writer = stack.enter_context(
            MetricWriter(folder, done if restored else None, enabled=is_main(), warn=progress.warn)
        )
        work = watch.work(training.batch_size, feed.example, mesh.devices.size)
        seen = feed.few_held_out()
        reporter = Reporter(
            writer, progress, work, loss, program.eval_step, feed.held_out, watch.monitor, seen, preempted
        )
        milestones = Milestones(training, config, folder, feed, checkpoints, writer, reporter, progress.warn, preempted)
        if pending:
            milestones.measure(done, state, pending, checkpoint=True)
        profile = stack.enter_context(Profile(folder.profile, done, enabled=watch.profile and is_main()))
        for step in range(done + 1, training.steps + 1):
            batch = feed.batch(step)
            profile.before(step, state)
            state, numbers = program.train_step(state, batch, key)
            profile.after(step, state)
            reporter.step_done(state, step)
            due = Due.after(step, training)
            if any(due) or preempted():
                milestones.reached(step, state, numbers, due)
    return TrainResult(training.steps, state.params, reporter.last_evaluation, folder.root)


def _begun(program: Program, feed: Feed, initial: Callable[[], Any] | None, key: np.uint32) -> Restored:
    """Returns what a run starts from: given parameters, to be evaluated, or random ones, to be checked for outliers."""
    if initial is None:
        return Restored(0, program.init(key), feed.start, (OUTLIERS,))
    shardings = jax.tree.map(lambda x: x.sharding, program.abstract_state.params)
    return Restored(0, program.start(jax.device_put(initial(), shardings)), feed.start, (EVALUATION,))


def _tolerated(restored: Restored, training: TrainingConfig) -> Restored:
    """Returns a checkpoint with its bad steps in a row lowered, if need be, so that only another one ends the run."""
    bad = restored.state.bad
    in_a_row = jax.numpy.minimum(bad.in_a_row, training.max_bad_steps - 1)
    return restored._replace(state=dataclasses.replace(restored.state, bad=dataclasses.replace(bad, in_a_row=in_a_row)))


def _last_evaluation(folder: RunFolder) -> dict[str, float]:
    """Returns the metrics of a finished run's last evaluation, from its log."""
    last = read_metrics(folder.root, "eval")[-1]
    return {name: value for name, value in last.items() if name not in ("step", "split")}
