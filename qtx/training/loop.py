"""The training loop: the same for one device and for many, from the first step or from a checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from qtx.foundation.errors import Preempted, QtxError
from qtx.training.bad_steps import ended, keep_batch, skipped
from qtx.training.checkpoints import Checkpoints, DamagedCheckpoint, Restored
from qtx.training.config import BEST_METRICS, TrainingConfig
from qtx.training.preemption import preemption
from qtx.training.profile import Profile
from qtx.training.program import Program, abstract_params, make_program, placed
from qtx.training.progress import ProgressLine
from qtx.training.reporter import Monitor, Reporter, Stopped, Work
from qtx.training.run_folder import NOTHING, RunFolder
from qtx.training.sharding import (
    MeshConfig,
    batch_shards,
    check_batch,
    make_mesh,
    param_shardings,
    process_part,
    shard_process_batch,
)
from qtx.training.step import Trainable, TrainState
from qtx.training.writers import MetricWriter, read_metrics

# Examples that a monitor sees: it looks at every attention map, so a whole batch could exceed the memory.
MONITOR_EXAMPLES = 16
ALL_DEVICES = MeshConfig()
NEWEST, BEST = "newest", "best"
# What is measured between updates.
OUTLIERS, EVALUATION = "outliers", "evaluation"


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
      step: updates done.
      params: the trained parameters, on the mesh.
      metrics: of the last evaluation (see `qtx.training.evaluate`).
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
    monitor: Monitor | None = None,
    initial: Callable[[], Any] | None = None,
    flops: Callable[[Mapping[str, Any]], float] | None = None,
    peak_flops: float | None = None,
    profile: bool = False,
) -> TrainResult:
    """Trains a model, or goes on where an interrupted run of the same config was; at once if that run is finished.

    The result does not depend on interruptions: state, data position and dropout keys are those of an unbroken run, and
    so are the logged losses. (On GPUs this holds as far as XLA's kernels are deterministic:
    `XLA_FLAGS=--xla_gpu_deterministic_ops=true`.)

    Args:
      module: a qtx model, or another `Trainable`.
      data: has `train(batch_size, seed, process_index, process_count)`, an endless iterator over this process's part of
        the batches, with `get_state()` and `set_state()` of a position that is the same on every process; and
        `evaluation(batch_size, process_index, process_count)`, this process's part of the held-out batches.
      training: the options.
      workdir: the run's folder; created if absent.
      config: what makes this run, of JSON types; kept in the folder and in each checkpoint, and compared when the run
        goes on.
      files: name to text of what the folder keeps from the start; see `RunFolder.claim`.
      mesh_config: the devices; a run may go on on others.
      seed: of the initial parameters, the order of the data, and dropout.
      monitor: called before the first update and every `training.outliers_every`; its numbers are logged as split
        "monitor".
      initial: gives the parameters to start from, which are evaluated before the first update; called only if the run
        starts. None: random ones.
      flops: model FLOPs of an update of a batch (arrays, or their shapes), over all devices.
      peak_flops: FLOP/s that one device can do at best; None: unknown.
      profile: trace a few steps to the folder's `profile/`.

    Raises:
      Preempted: on SIGTERM, when the state is saved.
      QtxError: if mesh, batch and folder do not fit, another process trains in the folder, it cannot be written, its
        checkpoints are damaged or of another run, or `training.max_bad_steps` updates in a row are not finite.
    """
    if not 0 <= seed < 2**32:
        raise QtxError(f"seed is {seed}: expected an integer from 0 to 2**32 - 1")
    mesh = make_mesh(mesh_config)
    check_batch(mesh, training.batch_size, training.accumulation_steps)
    folder, main_process = RunFolder(Path(workdir)), jax.process_index() == 0
    part = process_part(mesh)

    def evaluation(batch_size):
        return (shard_process_batch(mesh, batch) for batch in data.evaluation(batch_size, *part))

    with contextlib.ExitStack() as stack:
        if main_process:
            stack.enter_context(folder.lock())
        folder.claim(config, files, write=main_process)
        preempted = stack.enter_context(preemption())
        iterator = data.train(training.batch_size, seed, *part)
        first = iterator.get_state()
        example = next(iterator)
        iterator.set_state(first)
        program = make_program(module, training, mesh, example)
        progress = stack.enter_context(ProgressLine(training.steps, enabled=main_process))
        checkpoints = stack.enter_context(
            Checkpoints(folder.checkpoints, training.keep_checkpoints, training.keep_best)
        )

        restored = checkpoints.restore_newest(program.abstract_state, config, progress.warn)
        begin = Restored(0, None, first, (EVALUATION if initial else OUTLIERS,))
        done, state, position, pending = restored or begin
        state = _initial_state(program, initial, seed) if restored is None else _tolerated(state, training)
        iterator.set_state(position)
        if done == training.steps and not pending:
            last = read_metrics(folder.root, "eval")[-1]
            results = {name: value for name, value in last.items() if name not in ("step", "split")}
            return TrainResult(done, state.params, results, folder.root)
        writer = stack.enter_context(
            MetricWriter(folder, done if restored else None, enabled=main_process, warn=progress.warn)
        )
        reporter = Reporter(
            writer,
            progress,
            _work(training, example, mesh, flops, peak_flops),
            program.eval_step,
            # As large as one microbatch, since that fits in memory.
            lambda: itertools.islice(
                evaluation(training.batch_size // training.accumulation_steps), training.eval_batches
            ),
            monitor,
            next(iter(evaluation(-(-MONITOR_EXAMPLES // batch_shards(mesh)) * batch_shards(mesh)))),
            preempted,
        )

        def save(step, state, position, score=None, pending=()):
            # The log first: a checkpoint vouches for every line up to its step.
            writer.sync()
            checkpoints.save(step, state, position, config, score, pending)

        def after_update(step, state, pending, due):
            """Measures what is `pending` at a step, and saves a checkpoint if it is `due`, one of the best, or the last
            before a stop, which leaves to the next run what it has no time for."""
            todo, score = list(pending), None
            try:
                for name in pending:
                    if name == OUTLIERS:
                        reporter.outliers(state, step)
                    else:
                        value = reporter.evaluate(state, step)[training.best_metric]
                        score = BEST_METRICS[training.best_metric] * value
                    todo.remove(name)
            except Stopped:
                pass
            best = score is not None and training.keep_best > 0 and checkpoints.is_best(score)
            stop = bool(todo) or preempted()
            if step and (due or best or stop):
                save(step, state, iterator.get_state(), score, todo)
            if stop:
                saved = "which is saved" if step else "before the first update: there is nothing to save"
                raise Preempted(f"stopped by SIGTERM after step {step:,} of {training.steps:,}, {saved}")

        if pending:
            after_update(done, state, pending, due=True)
        tracer = stack.enter_context(Profile(folder.profile, done, enabled=profile and main_process))
        key, positions = np.uint32(seed), {}
        intervals = training.log_every, training.outliers_every, training.eval_every, training.checkpoint_every
        for step in range(done + 1, training.steps + 1):
            positions[step] = iterator.get_state()
            batch = shard_process_batch(mesh, next(iterator))
            tracer.before(step, state)
            state, numbers = program.train_step(state, batch, key)
            tracer.after(step, state)
            reporter.step_done(state, step)
            log, look, evaluate, due = (step == training.steps or step % every == 0 for every in intervals)
            if not (log or look or evaluate or due or preempted()):
                continue
            reporter.pause(state)
            bad = jax.tree.map(int, jax.device_get(state.bad))
            if bad.in_a_row >= training.max_bad_steps:
                iterator.set_state(positions[bad.last])
                kept = keep_batch(folder.bad_steps, bad.last, next(iterator))
                if bad.last - 1 > (checkpoints.latest_step() or 0):
                    mended = dataclasses.replace(state, bad=dataclasses.replace(state.bad, in_a_row=0 * state.step))
                    save(bad.last - 1, mended, positions[bad.last])
                raise ended(bad, kept)
            if bad.last in positions:
                progress.warn(skipped(bad))
            positions.clear()
            if log:
                reporter.train(state, step, numbers, bad.total)
            after_update(step, state, [n for n, wanted in ((OUTLIERS, look), (EVALUATION, evaluate)) if wanted], due)
            reporter.resume()
    return TrainResult(training.steps, state.params, reporter.last_evaluation, folder.root)


def _tolerated(state: TrainState, training: TrainingConfig) -> TrainState:
    """A restored state, whose bad steps in a row may be more than are tolerated now: the next one ends the run."""
    in_a_row = jax.numpy.minimum(state.bad.in_a_row, training.max_bad_steps - 1)
    return dataclasses.replace(state, bad=dataclasses.replace(state.bad, in_a_row=in_a_row))


def _initial_state(program: Program, initial: Callable[[], Any] | None, seed: int) -> TrainState:
    if initial is None:
        return program.init(np.uint32(seed))
    shardings = jax.tree.map(lambda x: x.sharding, program.abstract_state.params)
    return program.start(jax.device_put(initial(), shardings))


def find_checkpoint(workdir: str | Path, checkpoint: str = NEWEST) -> int:
    """Updates done at one of a run's checkpoints; arguments and errors as `load_params`."""
    with Checkpoints(_checkpoints_of(workdir)) as checkpoints:
        return _find_step(checkpoints, workdir, checkpoint)


def load_params(
    module: Trainable,
    data: Any,
    workdir: str | Path,
    mesh_config: MeshConfig = ALL_DEVICES,
    checkpoint: str = NEWEST,
) -> Any:
    """The parameters of one of a run's checkpoints, on the mesh.

    Args:
      module: the run's model.
      data: has `evaluation(batch_size)`; gives the shapes only.
      workdir: the run's folder.
      mesh_config: the devices, not necessarily those of the training.
      checkpoint: `"newest"`, `"best"` on the held-out data by `training.best_metric`, or its step, e.g. `"500"`.

    Raises:
      QtxError: if the folder has no such checkpoint, it is damaged, or one of another model.
    """
    folder = _checkpoints_of(workdir)
    boxed = abstract_params(module, next(iter(data.evaluation(1))))
    shardings = param_shardings(make_mesh(mesh_config), boxed)
    with Checkpoints(folder) as checkpoints:
        step = _find_step(checkpoints, workdir, checkpoint)
        try:
            run = RunFolder(Path(workdir))
            config = run.read_config() if run.config.exists() else None
            return checkpoints.restore_params(step, placed(nn.unbox(boxed), shardings), config)
        except DamagedCheckpoint as error:
            others = ", ".join(str(other) for other in checkpoints.steps() if other != step)
            remedy = f"choose another with --checkpoint={others}" if others else "there is no other"
            raise QtxError(f"{error}; {remedy}") from error


def _checkpoints_of(workdir: str | Path) -> Path:
    folder = RunFolder(Path(workdir)).checkpoints
    if not folder.is_dir():
        raise QtxError(f"{workdir} has no checkpoints: expected the folder of a training run")
    return folder


def _find_step(checkpoints: Checkpoints, workdir: str | Path, checkpoint: str) -> int:
    steps = checkpoints.steps()
    if not steps:
        raise QtxError(f"{workdir} has no complete checkpoint yet: let its training reach one")
    if checkpoint == NEWEST:
        return steps[-1]
    if checkpoint == BEST:
        best = checkpoints.best_step()
        if best is None:
            raise QtxError(f"{workdir} has no checkpoint with an evaluation yet: choose one of {steps}, or newest")
        return best
    if checkpoint not in map(str, steps):
        raise QtxError(f"{workdir} has no checkpoint {checkpoint!r}: expected newest, best or one of {steps}")
    return int(checkpoint)


def _work(
    training: TrainingConfig,
    example: Mapping[str, np.ndarray],
    mesh: Mesh,
    flops: Callable[[Mapping[str, Any]], float] | None,
    peak_flops: float | None,
) -> Work:
    """What an update processes, over all devices."""
    batch = {n: jax.ShapeDtypeStruct((training.batch_size, *x.shape[1:]), x.dtype) for n, x in example.items()}
    return Work(
        examples=training.batch_size,
        tokens=training.batch_size * example["tokens"].shape[1] if "tokens" in example else None,
        flops=flops(batch) if flops else None,
        peak_flops=peak_flops * mesh.devices.size if peak_flops else None,
    )
