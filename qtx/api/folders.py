"""This module names the folders of models that are loaded from Python: of runs, and of texts given as a list."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qtx.foundation.errors import QtxError
from qtx.foundation.paths import at_home
from qtx.foundation.storage import write_whole

Texts = Sequence[str] | str | Path
"""Texts, as a list of them, or a file, folder or glob of texts, or `tfds:NAME`."""


class Workdir:
    """A folder: a given one, which stays, or a temporary one, which goes with the last model that needs it."""

    def __init__(self, given: str | Path | None):
        if given is not None:
            self.path = at_home(str(given))
            return
        made = tempfile.mkdtemp(prefix="qtx-")
        self.path = Path(made, "run")
        weakref.finalize(self, shutil.rmtree, made, ignore_errors=True)


def of_texts(texts: Texts | None, folder: Path) -> dict[str, Any]:
    """Returns the options that make texts the data of a run in a folder; a list of them is written beside it."""
    if texts is None:
        return {}
    if isinstance(texts, str | Path):
        return {"data.source": "text_corpus", "data.corpora": (str(texts),)}
    place = beside(folder, "texts")
    file, content = place / "texts.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    if file.exists() and file.read_bytes() != content:
        raise QtxError(f"{folder} was begun with other texts: choose another workdir")
    place.mkdir(parents=True, exist_ok=True)
    write_whole({file: content})
    options = {"source": "text_corpus", "corpora": (str(file),), "data_dir": str(place)}
    return {f"data.{name}": value for name, value in options.items()}


def beside(folder: Path, name: str) -> Path:
    """Returns a folder beside a run's, for what the run needs before it is there."""
    return folder.with_name(f"{folder.name}_{name}")
