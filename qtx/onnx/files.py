"""The files of a graph: one, or, beyond what one may hold, another beside it with the constants."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx

from qtx.foundation.errors import QtxError

MOST_BYTES = 1_800_000_000
"""The most bytes of constants in one file: the format allows 2 GiB in all."""


def save(model: onnx.ModelProto, file: Path) -> int:
    """Writes a checked graph, whole or not at all, and returns the bytes that it takes.

    Raises:
      QtxError: if there is no room for it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    constants = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    apart = {"save_as_external_data": True, "location": f"{file.name}_data"} if constants > MOST_BYTES else {}
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as unfinished:
        try:
            onnx.save_model(model, Path(unfinished, file.name), **apart)
        except OSError as error:
            raise QtxError(f"cannot write {file}: {error.strerror}") from error
        onnx.checker.check_model(Path(unfinished, file.name), full_check=True)
        written = list(Path(unfinished).iterdir())
        size = sum(one.stat().st_size for one in written)
        for one in written:
            os.replace(one, file.parent / one.name)
    return size
