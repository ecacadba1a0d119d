"""Plain lines for people."""

from __future__ import annotations

from rich.console import Console


def say(console: Console, text: str) -> None:
    """A plain line."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
