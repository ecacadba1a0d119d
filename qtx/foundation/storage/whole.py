"""Whole files: what a file should hold, reading its bytes, and writing files such that nobody finds a part of them."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from qtx.foundation.errors import QtxError

LONGEST_NAME = 255
"""The most bytes of a file's name on the usual file systems."""


class Expected(NamedTuple):
    """An `Expected` says what a file should hold, and what to do if it does not: the two ends of an error message.

    Attributes:
      what: a noun phrase, e.g. "a sweep of this version of qtx".
      mend: an imperative, e.g. "run qtx sensitivity again".
    """

    what: str
    mend: str

    def refusal(self, source: Path | str, reason: object) -> QtxError:
        """Makes the error that `source` is not what was expected."""
        return QtxError(f"{source} is not {self.what} ({' '.join(str(reason).split())[:300]}): {self.mend}")


def read_bytes(path: Path, expected: Expected) -> bytes:
    """Reads the content of a regular file, but never of a device or a pipe, which may have no end.

    Raises:
      QtxError: if there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise QtxError(f"there is no file {path}, expected {expected.what}: {expected.mend}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise QtxError(f"cannot read {path}: {error.strerror}") from error


def write_whole(contents: Mapping[Path, bytes]) -> None:
    """Writes files that belong together: a reader finds the old ones or the new ones, each whole. All are first written
    under other names, then renamed in the order given.

    Raises:
      OSError: if a file cannot be written; no part of a new file is left then, and the old files stay.
    """
    own = f"{os.getpid()}.{threading.get_ident()}"  # two threads may write the same file at once
    temporaries = {path: path.with_name(f".{path.name}.{own}") for path in contents}
    try:
        for path, temporary in temporaries.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(contents[path])
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def with_checksum(path: Path, content: bytes) -> dict[Path, bytes]:
    """Returns what `write_whole` writes for a file whose format holds no checksum: `<name>.sha256`, then the file."""
    return {_beside(path): hashlib.sha256(content).hexdigest().encode(), path: content}


def verify(path: Path, expected: Expected) -> None:
    """Raises QtxError unless a file is still as it was written with `with_checksum`."""
    if read_bytes(_beside(path), expected) != hashlib.sha256(read_bytes(path, expected)).hexdigest().encode():
        raise expected.refusal(path, f"its checksum is not that of {_beside(path).name}: it is damaged or was edited")


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def inside(folder: Path, name: str, expected: Expected) -> Path:
    """Returns the path below `folder` that a file's content calls `name`.

    Raises:
      QtxError: if the path is outside of `folder` (`../x`, `/x`), or too long for a file's name.
    """
    path = folder / name
    if len(name.encode(errors="replace")) > LONGEST_NAME:
        raise expected.refusal(folder, f"it names {name[:100]!r}..., which is too long")
    if "\0" in name or not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder)):
        raise expected.refusal(folder, f"it names {name!r}, which is outside of it")
    return path
