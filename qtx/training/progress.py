"""The progress line of a training run: on a terminal or in a notebook only, so that a pipe or a log file stays
readable."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS, COLUMNS = 1.0, 79
"""A notebook's line is written anew at most so often, over the one before."""


class ProgressLine:
    """A line with bar, step, loss, rate and time left, in less than 80 columns; use it in `with`.

    Args:
      steps: the number of updates in all.
      enabled: whether this process shows the line and warnings; of several processes, one does.
      console: where to print; standard error by default.
    """

    def __init__(self, steps: int, enabled: bool = True, console: Console | None = None):
        self._console = console or Console(stderr=True, quiet=not enabled)
        self._bar = Progress(
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=steps, status="compiling")
        self._written: float | None = None

    def update(self, step: int, status: str | None = None) -> None:
        """Moves the bar to `step`; `status` (loss and rate, or what is going on) stays until the next status."""
        if status is None:
            self._bar.update(self._task, completed=step)
        else:
            self._bar.update(self._task, completed=step, status=status)
        if self._console.is_jupyter and not self._console.quiet:
            self._write(status is not None)

    def _write(self, now: bool) -> None:
        """Writes the line in a notebook, where rich would need widgets."""
        if not now and self._written is not None and time.monotonic() - self._written < SECONDS:
            return
        task, self._written = self._bar.tasks[0], time.monotonic()
        left = "" if task.time_remaining is None else f", {task.time_remaining:.0f} s left"
        line = f"{task.completed:.0f}/{task.total:.0f} {task.fields['status']}{left}"
        print(f"\r{line[:COLUMNS]:<{COLUMNS}}", end="", flush=True)

    def warn(self, text: str) -> None:
        """Prints a warning on a line of its own, on a terminal or not."""
        # A warning may have brackets that are no markup, e.g. a token [CLS].
        self._console.print(f"[yellow]warning:[/yellow] {escape(text)}", highlight=False, soft_wrap=True)

    def __enter__(self) -> ProgressLine:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._written is not None:
            print()
