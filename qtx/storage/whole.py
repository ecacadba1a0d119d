"""Whole files: what is expected in one, its bytes, and writing one such that nobody finds a part of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from qtx.errors import QtxError


class Expected(NamedTuple):
    """What a file should hold, and what to do if it does not: the two ends of the message.

    Attributes:
      what: a noun phrase, e.g. "a sweep of this version of qtx".
      mend: an imperative, e.g. "run qtx sensitivity again".
    """

    what: str
    mend: str

    def refusal(self, source: Path | str, reason: object) -> QtxError:
        """The error for `source` not being that."""
        return QtxError(f"{source} is not {self.what} ({' '.join(str(reason).split())[:300]}): {self.mend}")


def read_bytes(path: Path, expected: Expected) -> bytes:
    """The content of a regular file: never of a device or a pipe, which may have no end.

    Raises:
      QtxError: if there is none, or it cannot be read.
    """
    if not path.is_file():
        raise QtxError(f"there is no file {path}, expected {expected.what}: {expected.mend}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise QtxError(f"cannot read {path}: {error.strerror}") from error


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Makes a file of what `write` puts into it: a reader finds the old one or the new one, whole.

    Raises:
      OSError: if it cannot be written; nothing is left then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            write(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
