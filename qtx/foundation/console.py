"""Plain lines of text for people."""

from __future__ import annotations

from typing import Any

import rich.console

from qtx.foundation.output import drop_output, writing


class Console(rich.console.Console):
    """Rich's console, except that the command goes on without output when the reader of its output is gone."""

    def on_broken_pipe(self) -> None:
        drop_output()

    def print(self, *objects: Any, **options: Any) -> None:
        with writing():
            super().print(*objects, **options)


def say(console: rich.console.Console, text: str) -> None:
    """Prints a line of plain text."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
