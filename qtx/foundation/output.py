"""What stdout does where it cannot show a character, and where nobody reads it any more."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper


def show_all_characters() -> None:
    """Has stdout write `?` for a character that its encoding does not have, instead of failing."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def drop_output() -> None:
    """Sends what is still written to stdout nowhere: its reader is gone, as in `| head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show(text: str) -> None:
    """Prints a text."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        drop_output()
