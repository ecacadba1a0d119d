"""The training loop: the same for one device and for many, from the first step or from a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from qtx.errors import QtxError
from qtx.training.checkpoints import Checkpoints
from qtx.training.config import TrainingConfig
from qtx.training.program import abstract_params, make_program, placed
from qtx.training.progress import ProgressLine
from qtx.training.reporter import Monitor, Reporter
from qtx.training.run_folder import RunFolder
from qtx.training.sharding import (
    MeshConfig,
    batch_shards,
    check_batch,
    make_mesh,
    param_shardings,
    shard_global_batch,
    shard_process_batch,
)
from qtx.training.step import Trainable, TrainState
from qtx.training.writers import MetricWriter, read_metrics

# Examples that a monitor sees: it looks at every attention map, so a whole batch could exceed the memory.
MONITOR_EXAMPLES = 16
ALL_DEVICES = MeshConfig()


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
    mesh_config: MeshConfig = ALL_DEVICES,
    seed: int = 0,
    monitor: Monitor | None = None,
    initial: Callable[[], Any] | None = None,
) -> TrainResult:
    """Trains a model, or goes on where an interrupted run of the same config was; at once if that run is finished.

    The result does not depend on interruptions: state, data position and dropout keys are those of an unbroken run, and
    so are the logged losses. (On GPUs this holds as far as XLA's kernels are deterministic:
    `XLA_FLAGS=--xla_gpu_deterministic_ops=true`.)

    Args:
      module: a qtx model, or another `Trainable`.
      data: has `train(batch_size, seed, process_index, process_count)`, an endless Grain iterator over this process's
        examples, and `evaluation(batch_size)`, the held-out batches.
      training: the options.
      workdir: the run's folder; created if absent.
      config: what makes this run, of JSON types; kept in the folder, and compared when the run goes on.
      mesh_config: the devices; a run may go on on others.
      seed: of the initial parameters, the order of the data, and dropout.
      monitor: called before the first update and at every evaluation; its numbers are logged as split "monitor".
      initial: gives the parameters to start from, which are evaluated before the first update; called only if the run
        starts. None: random ones.

    Raises:
      QtxError: if mesh, batch and folder do not fit, or the loss is not finite.
    """
    if not 0 <= seed < 2**32:
        raise QtxError(f"seed is {seed}: expected an integer from 0 to 2**32 - 1")
    mesh = make_mesh(mesh_config)
    check_batch(mesh, training.batch_size, training.accumulation_steps)
    folder, main_process = RunFolder(Path(workdir)), jax.process_index() == 0
    folder.claim(config, write=main_process)

    def training_batches():
        return data.train(training.batch_size, seed, jax.process_index(), jax.process_count())

    def evaluation(batch_size):
        return (shard_global_batch(mesh, batch) for batch in data.evaluation(batch_size))

    example = next(training_batches())
    program = make_program(module, training, mesh, example)
    key = np.uint32(seed)
    with Checkpoints(folder.checkpoints, training.keep_checkpoints) as checkpoints:
        done = checkpoints.latest_step()
        iterator = training_batches()
        if done is not None:
            state = checkpoints.restore(done, program.abstract_state, iterator)
        elif initial is None:
            state = program.init(key)
        else:
            shardings = jax.tree.map(lambda x: x.sharding, program.abstract_state.params)
            state = program.start(jax.device_put(initial(), shardings))
        if done == training.steps:
            last = read_metrics(folder.root, "eval")[-1]
            results = {name: value for name, value in last.items() if name not in ("step", "split")}
            return TrainResult(done, state.params, results, folder.root)
        with (
            MetricWriter(folder, done, enabled=main_process) as writer,
            ProgressLine(training.steps, done or 0, enabled=main_process) as progress,
        ):
            reporter = Reporter(
                writer,
                progress,
                _counts(training, example),
                program.eval_step,
                # As large as one microbatch, since that fits in memory.
                lambda: evaluation(training.batch_size // training.accumulation_steps),
                monitor,
                next(iter(evaluation(-(-MONITOR_EXAMPLES // batch_shards(mesh)) * batch_shards(mesh)))),
            )
            if done is None:
                reporter.monitor(state, 0) if initial is None else reporter.evaluate(state, 0)
            intervals = (training.log_every, training.eval_every, training.checkpoint_every)
            for step in range((done or 0) + 1, training.steps + 1):
                state, numbers = program.train_step(state, shard_process_batch(mesh, next(iterator)), key)
                reporter.step_done(state, step)
                log, evaluate, save = (step == training.steps or step % every == 0 for every in intervals)
                if not (log or evaluate or save):
                    continue
                reporter.pause(state)
                check_finite(state)
                if log:
                    reporter.train(state, step, numbers)
                if evaluate:
                    reporter.evaluate(state, step)
                if save:
                    # The log first: a checkpoint vouches for every line up to its step.
                    writer.sync()
                    checkpoints.save(step, state, iterator)
                reporter.resume()
    return TrainResult(training.steps, state.params, reporter.last_evaluation, folder.root)


def check_finite(state: TrainState) -> None:
    """Raises QtxError naming the step if a loss or gradient since the last log line was not finite."""
    bad_step = int(state.window.bad_step)
    if bad_step:
        raise QtxError(
            f"loss or gradient is not finite at step {bad_step}: training stopped; lower config.training.learning_rate "
            "or raise config.training.warmup_steps, and start in another --workdir"
        )


def load_params(module: Trainable, data: Any, workdir: str | Path, mesh_config: MeshConfig = ALL_DEVICES) -> Any:
    """The parameters of a run's newest checkpoint, on the mesh.

    Args:
      module: the run's model.
      data: has `evaluation(batch_size)`; gives the shapes only.
      workdir: the run's folder.
      mesh_config: the devices, not necessarily those of the training.

    Raises:
      QtxError: if the folder has no checkpoint, or one of another model.
    """
    folder = RunFolder(Path(workdir)).checkpoints
    if not folder.is_dir():
        raise QtxError(f"{workdir} has no checkpoints: expected the folder of a training run")
    boxed = abstract_params(module, next(iter(data.evaluation(1))))
    shardings = param_shardings(make_mesh(mesh_config), boxed)
    with Checkpoints(folder) as checkpoints:
        step = checkpoints.latest_step()
        if step is None:
            raise QtxError(f"{workdir} has no complete checkpoint yet: let its training reach one")
        return checkpoints.restore_params(step, placed(nn.unbox(boxed), shardings))


def _counts(training: TrainingConfig, example: Mapping[str, np.ndarray]) -> dict[str, int]:
    """What an update processes, over all devices."""
    counts = {"examples": training.batch_size}
    if "tokens" in example:
        counts["tokens"] = training.batch_size * example["tokens"].shape[1]
    return counts
