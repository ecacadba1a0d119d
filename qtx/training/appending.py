"""Files that grow while a run goes on, on a disk that may be full for a while."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 30.0
"""Seconds in which somebody may make room on a full disk."""
FULL = (errno.ENOSPC, errno.EDQUOT)


class AppendedFile:
    """A file to which whole pieces are appended, at once and without a buffer: either a piece is there entirely, or
    `append` raises and nothing of it is there.

    Args:
      path: the file; created if absent.
      warn: called with a message when the disk is full and the file waits for room.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]):
        self.path, self._warn = path, warn
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def append(self, piece: bytes) -> None:
        """Writes a piece.

        Raises:
          OSError: if the piece cannot be written, or the disk stays full for `PATIENCE`; the file is then as before.
        """
        end = os.fstat(self._descriptor).st_size

        def write() -> None:
            try:
                left = memoryview(piece)
                while left:
                    left = left[os.write(self._descriptor, left) :]
            except OSError:
                os.ftruncate(self._descriptor, end)
                raise

        self._patiently(write)

    def sync(self) -> None:
        """Flushes all appended pieces to disk; raises OSError as `append` does."""
        self._patiently(lambda: os.fsync(self._descriptor))

    def close(self) -> None:
        """Closes the file; what was appended is in it already."""
        os.close(self._descriptor)

    def _patiently(self, write: Callable[[], None]) -> None:
        began, pause = None, 0.05
        while True:
            try:
                return write()
            except OSError as error:
                if error.errno not in FULL:
                    raise
                if began is None:
                    began = time.monotonic()
                    self._warn(f"no room to write {self.path}: waiting {PATIENCE:g} s for some to be made")
                if time.monotonic() - began > PATIENCE:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 1.0)
