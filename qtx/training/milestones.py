"""What comes between updates: logging, measuring, saving, and an end before the last update."""

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

# What is measured.
OUTLIERS, EVALUATION = "outliers", "evaluation"


class Due(NamedTuple):
    """What is to be done after an update.

    Attributes:
      log: write a line of training metrics.
      measurements: `OUTLIERS`, `EVALUATION`, both or neither.
      checkpoint: save one.
    """

    log: bool
    measurements: tuple[str, ...]
    checkpoint: bool

    @classmethod
    def after(cls, step: int, training: TrainingConfig) -> Due:
        """Each thing is due at its interval, and everything after the last update."""

        def due(every: int) -> bool:
            return step == training.steps or step % every == 0

        intervals = {OUTLIERS: training.outliers_every, EVALUATION: training.eval_every}
        measurements = tuple(name for name, every in intervals.items() if due(every))
        return cls(due(training.log_every), measurements, due(training.checkpoint_every))


@dataclasses.dataclass(frozen=True)
class Milestones:
    """Does what is due.

    Attributes:
      training: the options.
      config: what makes the run, kept in each checkpoint.
      folder, feed, checkpoints, writer, reporter: the run's.
      warn: told of skipped updates.
      preempted: whether the run is to stop now; see `qtx.training.preemption`.
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
        """After update `step`, whose `numbers` the training step gave.

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
        """Measures what is `pending` at a step, and saves a checkpoint if it is due, one of the best, or the last
        before a stop, which leaves to the next run what it has no time for.

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
        """The score of the evaluation, if it was pending, and what is left since the run is to stop."""
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
        """The state's `BadSteps` as Python numbers. If the last is one too many, ends the run, with the state before it
        saved and its batch kept."""
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
