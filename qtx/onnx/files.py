"""The files of graphs: one each, or, beyond what one may hold, another beside it with the constants."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx

from qtx.foundation.errors import QtxError

MOST_BYTES = 1_800_000_000
"""The most bytes of constants in one file: the format allows 2 GiB in all."""


def save(
    models: Mapping[str, onnx.ModelProto], folder: Path, beside: Mapping[str, bytes | None] | None = None
) -> dict[str, int]:
    """Writes checked graphs to a folder, and other contents beside them, by their files' names, all or none, and
    returns the bytes that each takes. Where a content is None, an earlier file of this name goes.

    Raises:
      QtxError: if there is no room for them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished.") as unfinished:
        sizes, place = {}, Path(unfinished)
        for name, model in models.items():
            constants = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
            apart = {"save_as_external_data": True, "location": f"{name}_data"} if constants > MOST_BYTES else {}
            with _written(folder / name):
                onnx.save_model(model, place / name, **apart)
            onnx.checker.check_model(place / name, full_check=True)
            sizes[name] = sum(file.stat().st_size for file in place.glob(f"{name}*"))
        for name, content in (beside or {}).items():
            if content is not None:
                with _written(folder / name):
                    sizes[name] = (place / name).write_bytes(content)
        for name in {*(beside or {})} - {*sizes}:
            (folder / name).unlink(missing_ok=True)
        for file in place.iterdir():
            os.replace(file, folder / file.name)
    return sizes


@contextlib.contextmanager
def _written(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise QtxError(f"cannot write {file}: {error.strerror}") from error
