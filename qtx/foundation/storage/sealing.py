"""The checksum that qtx's own files carry: it is of their content, values and arrays, and not of their bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from qtx.foundation.storage.json_files import parse_json
from qtx.foundation.storage.stored_tensors import StoredTensor
from qtx.foundation.storage.whole import Expected, read_bytes

CHECKSUM = "checksum"
"""The key of the SHA-256 of an object's other keys, and of the arrays beside it."""

Arrays = Mapping[str, np.ndarray | StoredTensor]
NONE: Arrays = MappingProxyType({})


def digest(arrays: Arrays, values: Mapping[str, Any] | None = None) -> str:
    """Returns the SHA-256 of arrays, by name, type, shape and bytes, and of values of JSON types, in any order."""
    whole = hashlib.sha256(json.dumps(values or {}, sort_keys=True).encode())
    for name in sorted(arrays):
        x = np.asarray(arrays[name])
        whole.update(repr((name, x.dtype.str, x.shape)).encode())
        whole.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
    return whole.hexdigest()


def seal(values: Mapping[str, Any], arrays: Arrays = NONE) -> dict[str, Any]:
    """Returns `values`, of JSON types, with the checksum of them and of `arrays`, for `unseal` to take back."""
    return {**values, CHECKSUM: digest(arrays, values)}


def unseal(values: Mapping[str, Any], source: Path | str, expected: Expected, arrays: Arrays = NONE) -> dict[str, Any]:
    """Returns the values that `seal` was given.

    Raises:
      QtxError: if `values` have no checksum, or one that does not fit them and the arrays.
    """
    content = {key: value for key, value in values.items() if key != CHECKSUM}
    if CHECKSUM not in values:
        raise expected.refusal(source, f"it has no {CHECKSUM}: another version or program wrote it")
    if values[CHECKSUM] != digest(arrays, content):
        raise expected.refusal(source, f"its {CHECKSUM} does not fit its content: it is damaged or was edited")
    return content


def sealed_json(values: Mapping[str, Any]) -> bytes:
    """Returns a file's content, with a checksum, for people to read and for `read_sealed_json`."""
    return (json.dumps(seal(values), indent=2) + "\n").encode()


def read_sealed_json(path: Path, expected: Expected) -> dict[str, Any]:
    """Reads the values of a file that `sealed_json` made, infinite measurements included.

    Raises:
      QtxError: if the file is anything else.
    """
    return unseal(parse_json(read_bytes(path, expected), path, expected, finite=False), path, expected)
