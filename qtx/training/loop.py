"""The training loop: the same for one device and for many, from the first step or from a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from qtx.errors import QtxError
from qtx.training.checkpoints import Checkpoints
from qtx.training.config import TrainingConfig
from qtx.training.optimizer import make_optimizer
from qtx.training.progress import ProgressLine
from qtx.training.reporter import Monitor, Reporter
from qtx.training.run_folder import RunFolder
from qtx.training.schedules import learning_rate_schedule
from qtx.training.sharding import (
    MeshConfig,
    batch_sharding,
    batch_shards,
    check_batch,
    make_mesh,
    optimizer_shardings,
    param_shardings,
    replicated,
    shard_global_batch,
    shard_process_batch,
)
from qtx.training.step import Batch, TrainState, init_key, init_state, make_eval_step, make_train_step
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
    module: nn.Module,
    data: Any,
    training: TrainingConfig,
    *,
    workdir: str | Path,
    config: Mapping[str, Any],
    mesh_config: MeshConfig = ALL_DEVICES,
    seed: int = 0,
    monitor: Monitor | None = None,
    title: str = "training",
) -> TrainResult:
    """Trains a model, or goes on where an interrupted run of the same config was; at once if that run is finished.

    The result does not depend on interruptions: state, data position and dropout keys are those of an unbroken run, and
    so are the logged losses. (On GPUs this holds as far as XLA's kernels are deterministic:
    `XLA_FLAGS=--xla_gpu_deterministic_ops=true`.)

    Args:
      module: a qtx model.
      data: has `train(batch_size, seed, process_index, process_count)`, an endless Grain iterator over this process's
        examples, and `evaluation(batch_size)`, the held-out batches.
      training: the options.
      workdir: the run's folder; created if absent.
      config: what makes this run, of JSON types; kept in the folder, and compared when the run goes on.
      mesh_config: the devices; a run may go on on others.
      seed: of the initial parameters, the order of the data, and dropout.
      monitor: called before the first update and at every evaluation; its numbers are logged as split "monitor".
      title: of the progress line.

    Raises:
      QtxError: if mesh, batch and folder do not fit, or the loss is not finite.
    """
    mesh = make_mesh(mesh_config)
    check_batch(mesh, training.batch_size, training.accumulation_steps)
    folder, main_process = RunFolder(Path(workdir)), jax.process_index() == 0
    folder.claim(config, write=main_process)
    run = _Run(module, data, training, mesh, seed)
    with Checkpoints(folder.checkpoints, training.keep_checkpoints) as checkpoints:
        done = checkpoints.latest_step()
        iterator = run.iterator()
        state = run.initial_state() if done is None else checkpoints.restore(done, run.abstract_state, iterator)
        if done == training.steps:
            last = read_metrics(folder.root, "eval")[-1]
            evaluation = {name: value for name, value in last.items() if name not in ("step", "split")}
            return TrainResult(done, state.params, evaluation, folder.root)
        with (
            MetricWriter(folder, done, enabled=main_process) as writer,
            ProgressLine(title, training.steps, done or 0, enabled=main_process) as progress,
        ):
            reporter = run.reporter(writer, progress, monitor)
            if done is None:
                reporter.monitor(state, 0)
            for step in range((done or 0) + 1, training.steps + 1):
                state, grad_norm = run.train_step(state, shard_process_batch(mesh, next(iterator)))
                reporter.step_done(state, step)
                due = [step == training.steps or step % every == 0 for every in run.intervals]
                if not any(due):
                    continue
                reporter.pause(state)
                check_finite(state)
                if due[0]:
                    reporter.train(state, step, grad_norm)
                if due[1]:
                    reporter.evaluate(state, step)
                if due[2]:
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


def load_params(module: nn.Module, data: Any, workdir: str | Path, mesh_config: MeshConfig = ALL_DEVICES) -> Any:
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
    boxed = jax.eval_shape(module.init, init_key(0), next(iter(data.evaluation(1))))["params"]
    shardings = param_shardings(make_mesh(mesh_config), boxed)
    with Checkpoints(folder) as checkpoints:
        step = checkpoints.latest_step()
        if step is None:
            raise QtxError(f"{workdir} has no complete checkpoint yet: let its training reach one")
        return checkpoints.restore_params(step, _placed(nn.unbox(boxed), shardings))


def _placed(abstract: Any, shardings: Any) -> Any:
    """Shapes and dtypes with the shardings to restore to."""
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)


class _Run:
    """What a run compiles, and what it reads from the data."""

    def __init__(self, module: nn.Module, data: Any, training: TrainingConfig, mesh: Mesh, seed: int):
        self._data, self._training, self._mesh, self._seed = data, training, mesh, seed
        self.intervals = (training.log_every, training.eval_every, training.checkpoint_every)
        optimizer = make_optimizer(training)
        # Shapes do not depend on the number of examples, so one is enough to trace the initialization.
        self._example = {name: np.asarray(value[:1]) for name, value in next(self.iterator()).items()}
        self._init = lambda batch: init_state(module, optimizer, seed, batch)
        abstract = jax.eval_shape(self._init, self._example)
        params = param_shardings(mesh, jax.eval_shape(module.init, init_key(seed), self._example)["params"])
        everywhere = replicated(mesh)
        self._shardings = TrainState(
            step=everywhere,
            params=params,
            opt_state=optimizer_shardings(mesh, optimizer, abstract.params, params),
            window=jax.tree.map(lambda _: everywhere, abstract.window),
        )
        self.abstract_state = _placed(abstract, self._shardings)
        self.train_step = jax.jit(
            make_train_step(module, optimizer, training, seed, mesh),
            in_shardings=(self._shardings, batch_sharding(mesh)),
            out_shardings=(self._shardings, everywhere),
            donate_argnums=0,
        )
        self._eval_step = jax.jit(make_eval_step(module), out_shardings=everywhere)

    def iterator(self) -> Any:
        """A fresh iterator over this process's training batches."""
        return self._data.train(self._training.batch_size, self._seed, jax.process_index(), jax.process_count())

    def initial_state(self) -> TrainState:
        """The state before the first update, every device computing its own part."""
        return jax.jit(self._init, out_shardings=self._shardings)(self._example)

    def evaluation(self, batch_size: int) -> Iterable[Batch]:
        return (shard_global_batch(self._mesh, batch) for batch in self._data.evaluation(batch_size))

    def reporter(self, writer: MetricWriter, progress: ProgressLine, monitor: Monitor | None) -> Reporter:
        config, shards = self._training, batch_shards(self._mesh)
        counts = {"examples": config.batch_size}
        if "tokens" in self._example:
            counts["tokens"] = config.batch_size * self._example["tokens"].shape[1]
        # As large as what one microbatch takes, since that fits.
        batch_size = config.batch_size // config.accumulation_steps
        return Reporter(
            writer,
            progress,
            learning_rate_schedule(config),
            counts,
            self._eval_step,
            lambda: self.evaluation(batch_size),
            monitor,
            next(iter(self.evaluation(-(-MONITOR_EXAMPLES // shards) * shards))),
        )
