"""A safetensors header says where everything is: what does not fit is told before anything of that size is made."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save

from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected
from qtx.foundation.storage.stored_tensors import TYPES, open_safetensors

EXPECTED = Expected("a file of tensors", "make it again")


def entry(shape=(2,), begin=0, end=8, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def content(header, data=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


WRONG = {
    "empty": b"",
    "a length alone": struct.pack("<Q", 2),
    "a header beyond the file": struct.pack("<Q", 2**63) + b"{}",
    "no object": content([], b""),
    "data of no tensor": content({}),
    "more than there is": content({"a": entry((4,), 0, 16)}),
    "less than there is": content({"a": entry((1,), 0, 4)}),
    "a gap": content({"a": entry((1,), 0, 4), "b": entry((1,), 8, 12)}, b"\0" * 12),
    "an overlap": content({"a": entry(), "b": entry((1,), 4, 8)}),
    "backwards": content({"a": entry((2,), 8, 0)}),
    "negative": content({"a": entry((-2,), 0, 8)}),
    "another size than its shape's": content({"a": entry((3,))}),
    "no type": content({"a": entry(dtype="F33")}),
    "a type of another kind": content({"a": entry(dtype=["F32"])}),
    "a fraction": content({"a": entry((2.0,))}),
    "a truth": content({"a": entry((True, 2))}),
    "places of three": content({"a": entry() | {"data_offsets": [0, 4, 8]}}),
    "axes without end": content({"a": entry([2**62] * 100_000)}),
    "nothing, of many axes": content({"a": entry([0] * 65, 0, 0), "b": entry()}),
    "nothing, of sizes that no array has": content({"a": entry([0, 2**62, 2**62], 0, 0), "b": entry()}),
    "metadata of numbers": content({"__metadata__": {"format": 1}, "a": entry()}),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_header_that_does_not_fit_gets_one_line(tmp_path, case):
    (tmp_path / "file").write_bytes(WRONG[case])
    with pytest.raises(QtxError, match="is not a file of tensors .*: make it again") as error:
        open_safetensors(tmp_path / "file", EXPECTED)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_a_tensor_that_is_gone_when_it_is_read_gets_one_line(tmp_path):
    (tmp_path / "file").write_bytes(content({"a": entry()}))
    tensor = open_safetensors(tmp_path / "file", EXPECTED)[0]["a"]
    np.testing.assert_array_equal(np.asarray(tensor), np.zeros(2, np.float32))
    (tmp_path / "file").write_bytes(content({"a": entry()})[:-1])
    with pytest.raises(QtxError, match="it became shorter while it was read"):
        np.asarray(tensor)
    (tmp_path / "file").unlink()
    with pytest.raises(QtxError, match="cannot read .*: No such file"):
        np.asarray(tensor)


def test_every_type_and_shape_is_what_the_library_wrote(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"scalar": (), "empty": (0, 3), "cube": (2, 3, 4)}
    arrays = {
        f"{name}.{kind}": rng.integers(0, 2, shape).astype(dtype)
        for name, shape in shapes.items()
        for kind, dtype in TYPES.items()
    }
    (tmp_path / "file").write_bytes(save(arrays, {"format": "pt"}))
    tensors, metadata = open_safetensors(tmp_path / "file", EXPECTED)
    assert metadata == {"format": "pt"} and tensors.keys() == arrays.keys()
    for name, x in arrays.items():
        found = np.asarray(tensors[name])
        assert (found.dtype, found.shape, found.tobytes()) == (x.dtype, x.shape, x.tobytes()), name
        assert (tensors[name].dtype, tensors[name].shape) == (x.dtype, x.shape)
