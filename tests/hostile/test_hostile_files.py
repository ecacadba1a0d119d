"""Damaged files of every kind: the right answer or one line; never a hang, a traceback, or memory beyond the file's.

Of our own files a damaged one is told or gives what was written; of foreign ones it is told or gives values of the
right shape.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import resource
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected, read_npz, sealed_npz
from tests.hostile.readers import READERS, Reader

MEMORY = 16 << 20, 32
"""Bytes of Python's memory and NumPy's that a reader may take: so many, and so many for each byte of the file."""
RESIDENT = 300 << 10
"""Kilobytes that the process may grow by over all of a reader's files, memory that Python does not see included."""

PLACE = st.integers(0, 2**20)
NUMBERS = [b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"-1", b"1e999", b"NaN", b"9" * 5000]
TEXT = [b"[" * 3000, b'{"a":', b"\\ud800", b"../"]
HOSTILE = st.sampled_from(NUMBERS + TEXT)
DAMAGE = st.one_of(
    st.tuples(st.just("truncate"), PLACE),
    st.tuples(st.just("flip"), st.lists(st.tuples(PLACE, st.integers(0, 7)), min_size=1, max_size=8)),
    st.tuples(st.just("move"), PLACE, st.integers(1, 64), PLACE),
    st.tuples(st.just("append"), st.one_of(st.binary(min_size=1, max_size=40), HOSTILE)),
    st.tuples(st.just("overwrite"), PLACE, st.one_of(st.binary(min_size=1, max_size=40), HOSTILE)),
    st.tuples(st.just("insert"), PLACE, st.one_of(st.binary(min_size=1, max_size=40), HOSTILE)),
)


def damaged(content: bytes, kind: str, *how: Any) -> bytes:
    """`content` with one of `DAMAGE`."""
    size = max(len(content), 1)
    result = bytearray(content)
    if kind == "truncate":
        del result[how[0] % size :]
    elif kind == "flip":
        for place, bit in how[0]:
            result[place % size] ^= 1 << bit
    elif kind == "move":
        begin, length, to = how[0] % size, how[1], how[2] % size
        piece = result[begin : begin + length]
        result[to : to + length] = piece
    elif kind == "append":
        result += how[0]
    else:
        begin = how[0] % size
        result[begin : begin + len(how[1]) * (kind == "overwrite")] = how[1]
    return bytes(result)


@dataclasses.dataclass(frozen=True)
class Whole:
    """A reader with its whole file, and what it reads of it."""

    reader: Reader
    file: Path
    content: bytes
    value: Any

    def check(self, content: bytes) -> None:
        """Reads `content` in the file's place."""
        self.file.write_bytes(content)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        try:
            value = self.reader.read(self.file)
        except QtxError as error:
            # It may quote what the file says, but nothing longer.
            assert "\n" not in str(error) and 10 < len(str(error)) < 3000 + len(content)
        else:
            if self.reader.fits is None:
                assert same(value, self.value)
            else:
                assert self.reader.fits(value)
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before < MEMORY[0] + MEMORY[1] * len(content)


def same(a: Any, b: Any) -> bool:
    """Whether two values are of one type and equal, arrays bit for bit."""
    if dataclasses.is_dataclass(a) and type(a) is type(b):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, dict | list | tuple) and type(a) is type(b):
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray | jax.Array):
        a, b = np.asarray(a), np.asarray(b)
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and (a == b or (a != a and b != b))


@functools.cache
def whole_of(name: str, folder: Path) -> Whole:
    reader = READERS[name]
    file = reader.make(folder)
    return Whole(reader, file, file.read_bytes(), reader.read(file))


QUANTIZED = {"ranges", "integer weights", "integer description"}
"""Files for which a model is calibrated, which takes longer than to read all the others."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in QUANTIZED else ()) for name in READERS],
)
def whole(request, tmp_path_factory):
    made = whole_of(request.param, tmp_path_factory.mktemp("hostile"))
    tracemalloc.start()
    yield made
    tracemalloc.stop()
    made.file.write_bytes(made.content)


def test_a_whole_file_is_read(whole):
    whole.check(whole.content)
    assert whole.reader.fits is None or whole.reader.fits(whole.value)


def run(whole: Whole, examples: int) -> None:
    limit = datetime.timedelta(seconds=10)

    @settings(max_examples=examples, deadline=limit, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(DAMAGE)
    @example(("truncate", 3))  # in a gzip header
    def every(damage):
        content = damaged(whole.content, *damage)
        if content != whole.content:
            whole.check(content)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    every()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < RESIDENT


@pytest.mark.representative(
    "analysis",
    "run's config",
    "checkpoint's weights",
    "checkpoint's index",
    "WordPiece tokenizer",
    "vocab.txt",
    "IDX",
    "PNG",
    "zip of images",
    "labels",
    "JSON lines",
    "text, xz",
    "TFDS shard",
)
def test_damaged_files(whole):
    run(whole, 10)


@pytest.mark.long
def test_a_thousand_damaged_files(whole):
    run(whole, 1000)


@pytest.mark.parametrize("content", [b"", b"\0", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 20_000])
def test_other_files(whole, content):
    whole.check(content)


def test_an_array_beyond_what_a_file_can_hold_is_told(tmp_path):
    """The directory of a .npz file may place a member at any of 64 bits, which Python's files do not reach."""
    content = bytearray(sealed_npz({"a": np.arange(4)}))
    place = struct.pack("<HHQ", 1, 8, 2**63)
    entry, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    name_and_extra = sum(struct.unpack_from("<HH", content, entry + 28))
    (extra, size) = struct.unpack_from("<H", content, entry + 30) + struct.unpack_from("<I", content, end + 12)
    struct.pack_into("<I", content, entry + 42, 2**32 - 1)  # it is in the extra field
    struct.pack_into("<H", content, entry + 30, extra + len(place))
    struct.pack_into("<I", content, end + 12, size + len(place))
    content[entry + 46 + name_and_extra : entry + 46 + name_and_extra] = place
    (tmp_path / "far.npz").write_bytes(content)
    with pytest.raises(QtxError, match="not a whole .npz file: Python int too large"):
        read_npz(tmp_path / "far.npz", Expected("arrays", "make them again"))


@pytest.mark.parametrize(
    "shape", [f"({'-' * 8000}1,)", f"({'1+' * 4000}1,)", "(-1,)", "('1',)", "(", "(99999999999999999999,)"]
)
def test_a_header_that_numpy_does_not_write_is_told(tmp_path, shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    with zipfile.ZipFile(tmp_path / "header.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8))
    with pytest.raises(QtxError, match="not a whole .npz file: an array has a header that NumPy does not write"):
        read_npz(tmp_path / "header.npz", Expected("arrays", "make them again"))
