"""What is written of the same arrays is the same, byte for byte: a healing knows its checkpoint by its digest."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import load

from qtx.foundation.storage import sealed_safetensors


def test_the_same_arrays_make_the_same_file_whatever_order_the_library_has():
    arrays = {"b": np.arange(5, dtype=np.float32), 'é "a"': np.ones((2, 3), np.float16)}
    contents = {sealed_safetensors(arrays, {"note": "ü"}, zeta='a "text"', format="pt") for _ in range(40)}
    assert len(contents) == 1
    found = load(contents.pop())
    assert {name: x.tobytes() for name, x in found.items()} == {name: x.tobytes() for name, x in arrays.items()}
