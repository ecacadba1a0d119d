"""SHA-256 digests of what a split holds: by them a run knows its data again, wherever the files lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np


def texts_digest(texts: Iterable[str]) -> str:
    """Of texts, in their order."""
    whole = hashlib.sha256()
    for text in texts:
        content = text.encode()
        # The length first: two texts are not the one that they make together.
        whole.update(f"{len(content)} ".encode())
        whole.update(content)
    return whole.hexdigest()


def arrays_digest(*arrays: np.ndarray) -> str:
    """Of arrays: their types, shapes and values."""
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(f"{array.dtype.str} {array.shape} ".encode())
        whole.update(np.ascontiguousarray(array).data)
    return whole.hexdigest()


def facts_digest(facts: Any) -> str:
    """Of facts of JSON types."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
