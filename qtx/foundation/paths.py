"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path

from qtx.foundation.errors import QtxError


def at_home(path: str) -> Path:
    """A path whose `~` is expanded, which shells leave as it is behind `=` and in quotes.

    Raises:
      QtxError: where nobody knows what it stands for.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise QtxError(f"what ~ stands for in {path} is not known: set HOME, or give the whole path") from None
