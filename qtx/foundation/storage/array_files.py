"""Arrays in files: qtx's own safetensors and `.npz` files, with a checksum. No pickles."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as serialize

from qtx.foundation.errors import QtxError
from qtx.foundation.storage.json_files import parse_json
from qtx.foundation.storage.sealing import NONE, Arrays, seal, unseal
from qtx.foundation.storage.stored_tensors import StoredTensor, open_safetensors
from qtx.foundation.storage.whole import Expected, read_bytes

OURS = "qtx"
"""The name under which a file of qtx's keeps its values and the checksum of everything."""
NOTHING = "{}"
"""The text of no values, in which `unseal` misses the checksum."""


def sealed_safetensors(arrays: Mapping[str, np.ndarray], values: Mapping[str, Any] = NONE, **metadata: str) -> bytes:
    """Returns the content of a safetensors file, with a checksum; the same content for the same arguments.

    Args:
      arrays, values: what `read_sealed_safetensors` gives back; values are of JSON types.
      metadata: further texts of the header, for other readers.
    """
    arrays = {name: np.asarray(x, order="C") for name, x in arrays.items()}
    return _ordered(serialize(arrays, metadata={**metadata, OURS: json.dumps(seal(values, arrays))}))


def _ordered(content: bytes) -> bytes:
    """Returns a safetensors file with its metadata in the order of their names: the library writes them in any."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    metadata = header["__metadata__"]
    if list(metadata) == sorted(metadata):
        return content
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(content)[8 + size :]])


def read_safetensors(path: Path, expected: Expected) -> dict[str, StoredTensor]:
    """Returns the tensors of a safetensors file from anywhere; if qtx wrote the file, its checksum is verified.

    Raises:
      QtxError: if the file is not a whole safetensors file, is damaged, or has a type or shape that NumPy lacks.
    """
    tensors, metadata = open_safetensors(path, expected)
    if OURS in metadata:
        _unsealed(metadata[OURS], tensors, path, expected)
    return tensors


def read_sealed_safetensors(path: Path, expected: Expected) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads the arrays and the values of a file that `sealed_safetensors` made.

    Raises:
      QtxError: if the file is anything else.
    """
    tensors, metadata = open_safetensors(path, expected)
    arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    return arrays, _unsealed(metadata.get(OURS, NOTHING), arrays, path, expected)


def sealed_npz(arrays: Mapping[str, np.ndarray], values: Mapping[str, Any] = NONE) -> bytes:
    """Returns the content of an `.npz` file: arrays by name, and `qtx`, the bytes of a JSON text with `values` and the
    checksum. Nothing is compressed, so that the file's size says what reading it takes."""
    ours = np.frombuffer(json.dumps(seal(values, arrays)).encode(), np.uint8)
    members: Any = {**arrays, OURS: ours}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **members)
    return content.getvalue()


def read_npz(path: Path, expected: Expected) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
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
    return arrays, _unsealed(NOTHING if ours is None else ours.tobytes(), arrays, path, expected)


def _array(content: bytes) -> np.ndarray:
    # Not `np.load`, which makes an array of the size that a header says before looking at how much there is.
    file = io.BytesIO(content)
    try:
        np.lib.format.read_magic(file)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        np.broadcast_shapes(shape)  # NumPy's reader lets lengths below 0 pass, which `reshape` would take for others
    except Exception:  # for a damaged header, NumPy raises whatever Python's parser raises
        raise ValueError("an array has a header that NumPy does not write") from None
    array = np.frombuffer(content, dtype, offset=file.tell())  # no copy: `content` is one
    return array.reshape(shape, order="F" if fortran_order else "C")


def _unsealed(text: bytes | str, arrays: Arrays, path: Path, expected: Expected) -> dict[str, Any]:
    return unseal(parse_json(text, path, expected, finite=False), path, expected, arrays)
