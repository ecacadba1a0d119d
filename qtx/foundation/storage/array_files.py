"""Arrays in files: qtx's own safetensors and `.npz` files, with a checksum. No pickles."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as serialize

from qtx.foundation.errors import QtxError
from qtx.foundation.storage.json_files import CHECKSUM, parse_json
from qtx.foundation.storage.stored_tensors import StoredTensor, open_safetensors
from qtx.foundation.storage.whole import Expected, read_bytes

OURS = "qtx"
"""The name under which a file of qtx's keeps its values and the checksum of everything."""
# The header that NumPy writes before an array. A regular expression reads it, since NumPy's own reader evaluates it as
# Python, and allocates the size that it says before looking at how much there is.
NPY = re.compile(
    rb"\x93NUMPY(?:\x01\x00..|\x02\x00....)"
    rb"\{'descr': '([<|][biuf]\d{1,2})', 'fortran_order': (False|True), 'shape': \(([\d, ]{0,200})\), \} *\n",
    re.DOTALL,
)

Arrays = dict[str, np.ndarray]


def digest(arrays: Mapping[str, np.ndarray | StoredTensor], values: Mapping[str, Any] | None = None) -> str:
    """Returns the SHA-256 of arrays, by name, type, shape and bytes, and of values of JSON types, in any order."""
    whole = hashlib.sha256(json.dumps(values or {}, sort_keys=True).encode())
    for name in sorted(arrays):
        x = np.asarray(arrays[name])
        whole.update(repr((name, x.dtype.str, x.shape)).encode())
        whole.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
    return whole.hexdigest()


def sealed_safetensors(
    arrays: Mapping[str, np.ndarray], values: Mapping[str, Any] | None = None, **metadata: str
) -> bytes:
    """Returns the content of a safetensors file, with a checksum.

    Args:
      arrays, values: what `read_sealed_safetensors` gives back; values are of JSON types.
      metadata: further texts of the header, for other readers.
    """
    arrays = {name: np.asarray(x, order="C") for name, x in arrays.items()}
    return serialize(arrays, metadata={**metadata, OURS: _sealed(arrays, values or {})})


def read_safetensors(path: Path, expected: Expected) -> dict[str, StoredTensor]:
    """Returns the tensors of a safetensors file from anywhere; if qtx wrote the file, its checksum is verified.

    Raises:
      QtxError: if the file is not a whole safetensors file, is damaged, or has a type or shape that NumPy lacks.
    """
    tensors, metadata = open_safetensors(path, expected)
    if OURS in metadata:
        _unsealed(metadata[OURS], tensors, path, expected)
    return tensors


def read_sealed_safetensors(path: Path, expected: Expected) -> tuple[Arrays, dict[str, Any]]:
    """Reads the arrays and the values of a file that `sealed_safetensors` made.

    Raises:
      QtxError: if the file is anything else.
    """
    tensors, metadata = open_safetensors(path, expected)
    arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    return arrays, _unsealed(metadata.get(OURS), arrays, path, expected)


def sealed_npz(arrays: Mapping[str, np.ndarray], values: Mapping[str, Any] | None = None) -> bytes:
    """Returns the content of an `.npz` file: arrays by name, and `qtx`, the bytes of a JSON text with `values` and the
    checksum. Nothing is compressed, so that the file's size says what reading it takes."""
    ours = np.frombuffer(_sealed(arrays, values or {}).encode(), np.uint8)
    members: Any = {**arrays, OURS: ours}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **members)
    return content.getvalue()


def read_npz(path: Path, expected: Expected) -> tuple[Arrays, dict[str, Any]]:
    """Reads the arrays and the values of a file that `sealed_npz` made.

    Raises:
      QtxError: if the file is anything else.
    """
    content = read_bytes(path, expected)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
                raise expected.refusal(path, "it is compressed: another version wrote it")
            if sum(member.file_size for member in members) > len(content):
                raise expected.refusal(path, "it says to hold more than it does")
            arrays = {m.filename.removesuffix(".npy"): _array(archive.read(m)) for m in members}
    except QtxError:
        raise
    except Exception as error:  # for a damaged file, zipfile raises whatever its parts raise
        raise expected.refusal(path, f"not a whole .npz file: {error}") from None
    ours = arrays.pop(OURS, None)
    return arrays, _unsealed(None if ours is None else ours.tobytes(), arrays, path, expected)


def _array(content: bytes) -> np.ndarray:
    header = NPY.match(content)
    if header is None:
        raise ValueError("an array has a header that NumPy does not write")
    descr, fortran_order, axes = (group.decode() for group in header.groups())
    shape = tuple(int(n) for n in axes.split(",") if n.strip())
    array = np.frombuffer(content, np.dtype(descr), offset=header.end())  # no copy: `content` is one
    return array.reshape(shape, order="F" if fortran_order == "True" else "C")


def _sealed(arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> str:
    return json.dumps({**values, CHECKSUM: digest(arrays, values)})


def _unsealed(
    text: bytes | str | None, arrays: Mapping[str, np.ndarray | StoredTensor], path: Path, expected: Expected
) -> dict[str, Any]:
    if text is None:
        raise expected.refusal(path, f"it has no {CHECKSUM}: another version or program wrote it")
    values = parse_json(text, path, expected, finite=False)
    if values.pop(CHECKSUM, None) != digest(arrays, values):
        raise expected.refusal(path, f"its {CHECKSUM} does not fit its content: it is damaged or was edited")
    return values
