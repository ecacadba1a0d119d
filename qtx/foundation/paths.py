"""Paths as people write them, with `~`."""

from __future__ import annotations

from pathlib import Path

from qtx.foundation.errors import QtxError


def at_home(path: str) -> Path:
    """Expands the `~` of a path, which shells leave as it is behind `=` and in quotes.

    Raises:
      QtxError: if the home directory that `~` stands for is not known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise QtxError(f"what ~ stands for in {path} is not known: set HOME, or give the whole path") from None
