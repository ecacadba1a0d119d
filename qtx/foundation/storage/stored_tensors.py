"""This module opens a safetensors file from anywhere; each tensor is read when it is asked for."""

from __future__ import annotations

import dataclasses
import math
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from qtx.foundation.errors import QtxError
from qtx.foundation.storage.json_files import parse_json
from qtx.foundation.storage.whole import Expected

TYPES = {
    "BOOL": np.dtype(bool),
    **{f"U{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"I{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"F{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "C64": np.dtype("<c8"),
}
"""NumPy's types by the names that the format has for them."""
LONGEST_HEADER = 100_000_000
"""The most bytes of a header: the limit of the safetensors library."""
MOST_AXES = 64
"""The most axes of an array: NumPy's limit."""
METADATA = "__metadata__"


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, of which the type and the shape are known; `np.asarray(tensor)` reads it.

    Attributes:
      path: the file.
      dtype, shape: the tensor's type and shape.
      begin: the position of the tensor's first byte in the file.
      expected: what the file should be.
    """

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    expected: Expected

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = np.empty(self.shape, self.dtype)
        try:
            with self.path.open("rb") as file:
                file.seek(self.begin)
                read = file.readinto(array.reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise QtxError(f"cannot read {self.path}: {error.strerror}") from error
        if read != array.nbytes:
            raise self.expected.refusal(self.path, "it became shorter while it was read")
        return array if dtype is None else array.astype(dtype, copy=False)


def open_safetensors(path: Path, expected: Expected) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Returns the tensors of a safetensors file by name, and the texts of its metadata.

    Shapes, types and places are checked against each other and the file's size; no tensor is read.

    Raises:
      QtxError: if the file is not a whole safetensors file, or has a type or shape that NumPy lacks.
    """
    if not path.is_file():
        raise QtxError(f"there is no file {path}, expected {expected.what}: {expected.mend}")
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else size
            if length > min(size - 8, LONGEST_HEADER):
                raise expected.refusal(path, "not a whole safetensors file: its header is longer than it")
            header = parse_json(file.read(length), path, expected)
    except OSError as error:
        raise QtxError(f"cannot read {path}: {error.strerror}") from error
    try:
        metadata = header.pop(METADATA, None) or {}
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError(f"{METADATA} is not a table of texts")
        spans = {name: _span(name, entry) for name, entry in header.items()}
        _check_places([places for _, _, places in spans.values()], size - 8 - length)
    except ValueError as error:
        raise expected.refusal(path, f"not a whole safetensors file: {error}") from None
    tensors = {
        name: StoredTensor(path, dtype, shape, 8 + length + begin, expected)
        for name, (dtype, shape, (begin, _)) in spans.items()
    }
    return tensors, metadata


def _span(name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], tuple[int, int]]:
    """Returns the type, shape and place of a tensor."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} has not just dtype, shape and data_offsets")
    kind, shape, places = entry["dtype"], entry["shape"], entry["data_offsets"]
    for numbers in (shape, places):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise ValueError(f"{name} has sizes or places that are no whole numbers")
    if not isinstance(kind, str) or kind not in TYPES:
        raise ValueError(f"{name} is of type {str(kind)[:40]}, expected one of {', '.join(TYPES)}")
    dtype = TYPES[kind]
    if len(shape) > MOST_AXES or len(places) != 2 or places[1] - places[0] != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} is in a place that does not fit its shape")
    np.broadcast_to(np.empty((), dtype), shape)  # raises ValueError for shapes that NumPy does not have
    return dtype, tuple(shape), (places[0], places[1])


def _check_places(places: list[tuple[int, int]], size: int) -> None:
    """Raises ValueError unless each byte belongs to exactly one tensor."""
    end = 0
    for first, last in sorted(places):
        if first != end:
            raise ValueError("its tensors overlap or leave gaps")
        end = last
    if end != size:
        raise ValueError(f"its tensors take {end} bytes, and it has {size}")
