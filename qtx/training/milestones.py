"""The milestones between updates: logging, measuring, saving, and stopping before the last update."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from qtx.foundation.errors import Preempted
from qtx.training.bad_steps import ended, keep_batch, skipped
from qtx.training.checkpoints import Checkpoints
from qtx.training.config import BEST_METRICS, TrainingConfig
from qtx.training.feed import Feed
from qtx.training.reporter import Reporter, Stopped
from qtx.training.run_folder import RunFolder
from qtx.training.step import TrainState
from qtx.training.writers import MetricWriter

# The names of the measurements.
OUTLIERS, EVALUATION = "outliers", "evaluation"


class Due(NamedTuple):
    """The things to do after an update.

    Attributes:
      log: whether to write a line of training metrics.
      measurements: `OUTLIERS`, `EVALUATION`, both or neither.
      checkpoint: whether to save a checkpoint.
    """

    log: bool
    measurements: tuple[str, ...]
    checkpoint: bool

    @classmethod
    def after(cls, step: int, training: TrainingConfig) -> Due:
        """Returns what is due after update `step`: each thing at its interval, and everything after the last update."""

        def due(every: int) -> bool:
            return step == training.steps or step % every == 0

        intervals = {OUTLIERS: training.outliers_every, EVALUATION: training.eval_every}
        measurements = tuple(name for name, every in intervals.items() if due(every))
        return cls(due(training.log_every), measurements, due(training.checkpoint_every))


@dataclasses.dataclass(frozen=True)
class Milestones:
    """`Milestones` does what is due after an update.

    Attributes:
      training: the training options.
      config: the config that defines the run, kept in each checkpoint.
      folder, feed, checkpoints, writer, reporter: the run's.
      warn: called with a message for skipped updates.
      preempted: says whether the run is to stop now; see `qtx.training.preemption`.
    """

    training: TrainingConfig
    config: Mapping[str, Any]
    folder: RunFolder
    feed: Feed
    checkpoints: Checkpoints
    writer: MetricWriter
    reporter: Reporter
    warn: Callable[[str], None]
    preempted: Callable[[], bool]

    def reached(self, step: int, state: TrainState, numbers: Mapping[str, jax.Array], due: Due) -> None:
        """Does what is due after update `step`, whose `numbers` the training step returned.

        Raises:
          Preempted: if the run is to stop.
          QtxError: if too many bad steps came in a row, or something cannot be written.
        """
        self.reporter.pause(state)
        bad = self._bad_steps(state)
        if due.log:
            self.reporter.train(state, step, numbers, bad.total)
        self.measure(step, state, due.measurements, due.checkpoint)
        self.reporter.resume()

    def measure(self, step: int, state: TrainState, pending: Sequence[str], checkpoint: bool) -> None:
        """Makes the `pending` measurements at a step, and saves a checkpoint if one is due, is the best so far, or is
        the last before a stop, which leaves the measurements that it has no time for to the next run.

        Raises:
          Preempted: if the run is to stop.
        """
        score, left = self._measured(step, state, pending)
        best = score is not None and self.training.keep_best > 0 and self.checkpoints.is_best(score)
        stop = bool(left) or self.preempted()
        if step and (checkpoint or best or stop):
            self._save(step, state, self.feed.position, score, left)
        if stop:
            saved = "which is saved" if step else "before the first update: there is nothing to save"
            raise Preempted(f"stopped by SIGTERM after step {step:,} of {self.training.steps:,}, {saved}")

    def _measured(self, step: int, state: TrainState, pending: Sequence[str]) -> tuple[float | None, list[str]]:
        """Returns the score of the evaluation, if it was pending, and the measurements left if the run is to stop."""
        score, left = None, list(pending)
        try:
            for name in pending:
                if name == OUTLIERS:
                    self.reporter.outliers(state, step)
                else:
                    value = self.reporter.evaluate(state, step)[self.training.best_metric]
                    score = BEST_METRICS[self.training.best_metric] * value
                left.remove(name)
        except Stopped:
            pass
        return score, left

    def _bad_steps(self, state: TrainState) -> Any:
        """Returns the state's `BadSteps` as Python numbers. Too many in a row end the run: the batch of the last is
        kept, the state before it is saved, and the error is raised."""
        bad: Any = jax.tree.map(int, jax.device_get(state.bad))
        if bad.in_a_row >= self.training.max_bad_steps:
            position = self.feed.positions[bad.last]
            kept = keep_batch(self.folder.bad_steps, bad.last, self.feed.batch_again(bad.last))
            if bad.last - 1 > (self.checkpoints.latest_step() or 0):
                mended = dataclasses.replace(state, bad=dataclasses.replace(state.bad, in_a_row=0 * state.step))
                self._save(bad.last - 1, mended, position)
            raise ended(bad, kept)
        if bad.last in self.feed.positions:
            self.warn(skipped(bad))
        self.feed.positions.clear()
        return bad

    def _save(
        self, step: int, state: TrainState, position: Any, score: float | None = None, pending: Sequence[str] = ()
    ) -> None:
        # The log first: a checkpoint vouches for every line up to its step.
        self.writer.sync()
        self.checkpoints.save(step, state, position, self.config, score, pending)
