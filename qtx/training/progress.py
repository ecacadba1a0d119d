"""The progress line of a training run: on a terminal only, so that a pipe or a log file stays readable."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


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

    def update(self, step: int, status: str | None = None) -> None:
        """Moves the bar to `step`; `status` (loss and rate, or what is going on) stays until the next status."""
        if status is None:
            self._bar.update(self._task, completed=step)
        else:
            self._bar.update(self._task, completed=step, status=status)

    def warn(self, text: str) -> None:
        """Prints a warning on a line of its own, on a terminal or not."""
        # A warning may have brackets that are no markup, e.g. a token [CLS].
        self._console.print(f"[yellow]warning:[/yellow] {escape(text)}", highlight=False, soft_wrap=True)

    def __enter__(self) -> ProgressLine:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
