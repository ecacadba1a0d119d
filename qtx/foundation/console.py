"""Plain lines for people."""

from __future__ import annotations

import rich.console

from qtx.foundation.output import drop_output


class Console(rich.console.Console):
    """Rich's console; when the reader of its output is gone, the command goes on without it."""

    def on_broken_pipe(self) -> None:
        drop_output()


def say(console: rich.console.Console, text: str) -> None:
    """A plain line."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
