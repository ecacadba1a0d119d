"""This module lets a command go on when stdout cannot show a character, or when nobody reads stdout any more."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper


def show_all_characters() -> None:
    """Makes stdout write `?` for a character that its encoding does not have, instead of failing."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def drop_output() -> None:
    """Discards whatever is still written to stdout: its reader is gone, as in `| head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show(text: str) -> None:
    """Prints a text, or discards it if nobody reads stdout any more."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        drop_output()
