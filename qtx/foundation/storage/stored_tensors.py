"""This module opens a safetensors file from anywhere; each tensor is read when it is asked for."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from qtx.foundation.errors import QtxError
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
    """Returns the tensors of a safetensors file by name, and the texts of its metadata; no tensor is read.

    The library checks shapes, types and places against each other and the file's size.

    Raises:
      QtxError: if the file is not a whole safetensors file, or has a type or shape that NumPy lacks.
    """
    if not path.is_file():
        raise QtxError(f"there is no file {path}, expected {expected.what}: {expected.mend}")
    tensors = list[tuple[str, StoredTensor]]()
    try:
        begin = path.stat().st_size
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            for name in reversed(file.offset_keys()):  # tensors lie without gaps, and end with the file
                found = file.get_slice(name)
                kind, shape = found.get_dtype(), tuple(found.get_shape())
                if kind not in TYPES:
                    raise ValueError(f"{name} is of type {kind}, expected one of {', '.join(TYPES)}")
                dtype = TYPES[kind]
                np.broadcast_to(np.empty((), dtype), shape)  # raises ValueError for shapes that NumPy does not have
                begin -= math.prod(shape) * dtype.itemsize
                tensors.append((name, StoredTensor(path, dtype, shape, begin, expected)))
    except OSError as error:
        raise QtxError(f"cannot read {path}: {error.strerror or error}") from error
    except (SafetensorError, ValueError) as error:
        raise expected.refusal(path, f"not a whole safetensors file: {error}") from None
    return dict(reversed(tensors)), metadata
