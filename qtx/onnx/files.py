"""The files of graphs: one each, or, beyond what one may hold, another beside it with the constants."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx

from qtx.foundation.errors import QtxError

MOST_BYTES = 1_800_000_000
"""The most bytes of constants in one file: the format allows 2 GiB in all."""


def save(models: Mapping[str, onnx.ModelProto], folder: Path) -> dict[str, int]:
    """Writes checked graphs to a folder, by their files' names, all or none, and returns the bytes that each takes.

    Raises:
      QtxError: if there is no room for them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished.") as unfinished:
        sizes, place = {}, Path(unfinished)
        for name, model in models.items():
            constants = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
            apart = {"save_as_external_data": True, "location": f"{name}_data"} if constants > MOST_BYTES else {}
            try:
                onnx.save_model(model, place / name, **apart)
            except OSError as error:
                raise QtxError(f"cannot write {folder / name}: {error.strerror}") from error
            onnx.checker.check_model(place / name, full_check=True)
            sizes[name] = sum(file.stat().st_size for file in place.glob(f"{name}*"))
        for file in place.iterdir():
            os.replace(file, folder / file.name)
    return sizes
