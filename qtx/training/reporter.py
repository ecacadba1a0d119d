"""Reporting during a training run: loss, speed, evaluations, and a monitor's numbers."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax

from qtx.foundation.batch import Batch
from qtx.foundation.numbers import fixed, percent
from qtx.foundation.totals import Total
from qtx.losses import Loss
from qtx.training.evaluate import add_up
from qtx.training.progress import ProgressLine
from qtx.training.step import TrainState
from qtx.training.writers import MetricWriter

# (params, a few held-out examples, step) -> (numbers to log, a warning about them or None).
Monitor = Callable[[Any, Batch, int], tuple[Mapping[str, float], str | None]]


NOT_OF_TRAINING = ("perplexity", "predictions")
"""Metrics that are not logged for training batches: dropout, smoothing and a changing model make them say little."""


class Stopped(Exception):
    """The run is to stop, and the measurement that was going on has been given up."""


def until(stop: Callable[[], bool], batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yields the batches; raises `Stopped` instead of the next batch as soon as `stop` says so."""
    for batch in batches:
        if stop():
            raise Stopped
        yield batch


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of one update, over all devices.

    Attributes:
      examples: rows of the batch.
      tokens: tokens of the batch; None: the data have no tokens.
      flops: model FLOPs; None: unknown.
      peak_flops: FLOP/s that the devices can do at best, together; None: unknown.
    """

    examples: int
    tokens: int | None = None
    flops: float | None = None
    peak_flops: float | None = None

    def rates(self, steps_per_second: float) -> dict[str, float]:
        """Returns the rates to log: examples, tokens and model FLOPs per second, and the model FLOPs utilization."""
        counts = {"examples": self.examples, "tokens": self.tokens, "model_flops": self.flops}
        found = {f"{name}_per_second": steps_per_second * n for name, n in counts.items() if n is not None}
        if self.flops and self.peak_flops:
            found["model_flops_utilization"] = steps_per_second * self.flops / self.peak_flops
        return found

    def shown(self, steps_per_second: float) -> str:
        """Returns the rates as text for the progress line: `12.3k tokens/s, MFU 41%`."""
        rates = self.rates(steps_per_second)
        unit = "tokens" if self.tokens else "examples"
        number, prefix = metric_prefix(rates[f"{unit}_per_second"])
        speed = f"{number}{prefix} {unit}/s"
        if "model_flops_utilization" in rates:
            return f"{speed}, MFU {percent(rates['model_flops_utilization'])}"
        if not self.flops:
            return speed
        number, prefix = metric_prefix(rates["model_flops_per_second"])
        return f"{speed}, {number} {prefix}FLOP/s"


def metric_prefix(value: float) -> tuple[str, str]:
    """Returns at most three digits and a metric prefix: `("12.3", "k")`, `("456", "")`, `("7.8", "G")`."""
    value = float(f"{value:.3g}")
    power = min(int(math.log10(value)) // 3, 4) if value >= 1 else 0
    return f"{value / 1000**power:g}", ("", "k", "M", "G", "T")[power]


class Reporter:
    """A `Reporter` logs numbers of the state and shows progress; it waits for the devices only when a number is due.

    Args:
      writer, progress: the log, and the progress line.
      work: the work of an update; logged per second.
      loss: the loss whose sums the state's window holds.
      eval_step: compiled (params, batch, step) -> the sums of `Loss.measured`.
      evaluation: returns the held-out batches, on the mesh.
      monitor: see `Monitor`; None: no monitor.
      monitor_batch: the examples that the monitor sees.
      stop: says whether the run is to stop now; called before every batch of an evaluation, and before the monitor.
    """

    def __init__(
        self,
        writer: MetricWriter,
        progress: ProgressLine,
        work: Work,
        loss: Loss,
        eval_step: Callable[[Any, Batch, jax.Array], Any],
        evaluation: Callable[[], Iterable[Batch]],
        monitor: Monitor | None,
        monitor_batch: Batch,
        stop: Callable[[], bool],
    ):
        self._writer, self._progress, self._work = writer, progress, work
        self._of_loss, self._eval_step, self._evaluation = loss, eval_step, evaluation
        self._monitor, self._monitor_batch, self._stop = monitor, monitor_batch, stop
        self._loss: float | None = None
        self.last_evaluation: dict[str, float] = {}
        self._steps, self._seconds = 0, 0.0
        self._resumed: float | None = None

    def pause(self, state: TrainState) -> None:
        """Waits for the last update, and stops the clock: what follows is not training."""
        jax.block_until_ready(state.step)
        if self._resumed is not None:
            self._seconds += time.perf_counter() - self._resumed
            self._resumed = None

    def resume(self) -> None:
        """Starts the clock again."""
        self._resumed = time.perf_counter()

    def step_done(self, state: TrainState, step: int) -> None:
        """Counts an update for the speed, to be called after each; the first one, which compiles, starts the clock."""
        if self._resumed is None:
            self.pause(state)
            self.resume()
        else:
            self._steps += 1
        self._progress.update(step)

    def train(self, state: TrainState, step: int, numbers: Mapping[str, jax.Array], skipped: int) -> None:
        """Logs the means since the last line, the `numbers` of the last update, and how many the run has skipped."""
        sums = jax.tree.map(lambda high, low: float(Total(high, low).exact()), state.window, state.lost)
        penalties = sums.pop("penalties", {})
        means = self._of_loss.window(**sums).metrics()
        self._loss = means["loss"]
        values = {
            **{name: value for name, value in means.items() if name not in NOT_OF_TRAINING},
            **{f"penalty/{n}": total / terms if terms else math.nan for n, (total, terms) in penalties.items()},
            **{name: float(value) for name, value in numbers.items()},
        }
        if skipped:
            values["skipped_steps"] = skipped
        status = f"loss {fixed(self._loss)}"
        if self._steps:
            rate = self._steps / self._seconds
            values |= self._work.rates(rate)
            status += f", {self._work.shown(rate)}"
        self._steps, self._seconds = 0, 0.0
        self._writer.write(step, "train", values)
        self._progress.update(step, status)

    def evaluate(self, state: TrainState, step: int) -> dict[str, float]:
        """Logs and returns the metrics of the held-out data.

        Raises:
          Stopped: if the run is to stop before all batches are measured; nothing is logged then.
        """
        self._progress.update(step, "evaluating")
        batches = until(self._stop, self._evaluation())
        self.last_evaluation = add_up(lambda batch: self._eval_step(state.params, batch, state.step), batches)
        self._writer.write(step, "eval", self.last_evaluation)
        training = "" if self._loss is None else f"loss {fixed(self._loss)}, "
        self._progress.update(step, f"{training}held-out {fixed(self.last_evaluation['loss'])}")
        return self.last_evaluation

    def outliers(self, state: TrainState, step: int) -> None:
        """Logs the monitor's numbers, and prints its warning.

        Raises:
          Stopped: if the run is to stop now; nothing is logged then.
        """
        if self._monitor is None:
            return
        if self._stop():
            raise Stopped
        values, warning = self._monitor(state.params, self._monitor_batch, step)
        self._writer.write(step, "monitor", values, warning)
        if warning is not None:
            self._progress.warn(f"step {step}: {warning}")
