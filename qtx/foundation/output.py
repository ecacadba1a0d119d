"""This module lets a command go on when stdout cannot show a character, or when nobody reads stdout any more."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from io import TextIOWrapper

from qtx.foundation.errors import QtxError


def show_all_characters() -> None:
    """Makes stdout write `?` for a character that its encoding does not have, instead of failing."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def drop_output() -> None:
    """Discards whatever is still written to stdout: its reader is gone, as in `| head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Lets what is written within the context go unread, but not unwritten.

    Raises:
      QtxError: if the output cannot be written, as on a full disk.
    """
    try:
        yield
    except BrokenPipeError:
        drop_output()
    except OSError as error:
        drop_output()
        raise QtxError(f"stdout cannot be written ({error.strerror}): send it elsewhere; no file is lost") from None


def show(text: str) -> None:
    """Prints a text, or discards it if nobody reads stdout any more; raises as `writing`."""
    with writing():
        print(text, flush=True)
