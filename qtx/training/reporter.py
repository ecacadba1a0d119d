"""What a training run measures and tells while it runs: loss, speed, evaluations, and a monitor's numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from qtx.training.evaluate import add_up
from qtx.training.objectives import Sums, metrics
from qtx.training.progress import ProgressLine
from qtx.training.step import Batch, TrainState
from qtx.training.writers import MetricWriter

# (params, a few held-out examples, step) -> (numbers to log, a warning about them or None).
Monitor = Callable[[Any, Batch, int], tuple[Mapping[str, float], str | None]]


class Reporter:
    """Turns the state into log lines and the progress line; it alone waits for the devices, where a number is due.

    Args:
      writer, progress: where to.
      counts: what a step processes, e.g. `{"tokens": 4096}`; logged per second.
      eval_step: compiled (params, batch, step) -> `Sums`.
      evaluation: gives the held-out batches, on the mesh.
      monitor: see `Monitor`; None: none.
      monitor_batch: the examples that it sees.
    """

    def __init__(
        self,
        writer: MetricWriter,
        progress: ProgressLine,
        counts: Mapping[str, int],
        eval_step: Callable[[Any, Batch, jax.Array], Sums],
        evaluation: Callable[[], Iterable[Batch]],
        monitor: Monitor | None,
        monitor_batch: Batch,
    ):
        self._writer, self._progress, self._counts = writer, progress, counts
        self._eval_step, self._evaluation = eval_step, evaluation
        self._monitor, self._monitor_batch = monitor, monitor_batch
        self._loss: float | None = None
        self.last_evaluation: dict[str, float] = {}
        self._steps, self._seconds = 0, 0.0
        self._resumed: float | None = None

    def pause(self, state: TrainState) -> None:
        """Stops the clock: what follows is not training."""
        jax.block_until_ready(state.step)
        if self._resumed is not None:
            self._seconds += time.perf_counter() - self._resumed
            self._resumed = None

    def resume(self) -> None:
        """Starts the clock again."""
        self._resumed = time.perf_counter()

    def step_done(self, state: TrainState, step: int) -> None:
        """Called after every update; the first only compiles, as far as the clock goes."""
        if self._resumed is None:
            self.pause(state)
            self.resume()
        else:
            self._steps += 1
        self._progress.update(step)

    def train(self, state: TrainState, step: int, numbers: Mapping[str, jax.Array]) -> None:
        """Logs means over the steps since the last line, and `numbers` of the last step."""
        sums = jax.device_get(state.window.sums)
        means = metrics(float(sums.loss), float(sums.weight), float(sums.correct))
        self._loss = means["loss"]
        values = {
            "loss": means["loss"],
            "accuracy": means["accuracy"],
            **{name: float(value) for name, value in numbers.items()},
        }
        status = f"loss {self._loss:.4f}"
        if self._steps:
            rate = self._steps / self._seconds
            values |= {f"{name}_per_second": rate * count for name, count in self._counts.items()}
            status += f", {rate:.3g} steps/s"
        self._steps, self._seconds = 0, 0.0
        self._writer.write(step, "train", values)
        self._progress.update(step, status)

    def evaluate(self, state: TrainState, step: int) -> None:
        """Logs the metrics of the held-out data, and the monitor's numbers."""
        self._progress.update(step, "evaluating")
        batches = self._evaluation()
        self.last_evaluation = add_up(lambda batch: self._eval_step(state.params, batch, state.step), batches)
        self._writer.write(step, "eval", self.last_evaluation)
        self.monitor(state, step)
        training = "" if self._loss is None else f"loss {self._loss:.4f}, "
        self._progress.update(step, f"{training}held-out {self.last_evaluation['loss']:.4f}")

    def monitor(self, state: TrainState, step: int) -> None:
        """Logs the monitor's numbers, and tells its warning."""
        if self._monitor is None:
            return
        values, warning = self._monitor(state.params, self._monitor_batch, step)
        self._writer.write(step, "monitor", values, warning)
        if warning is not None:
            self._progress.warn(f"step {step}: {warning}")
