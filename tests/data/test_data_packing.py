from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtx.data.packing import pack
from qtx.foundation.errors import QtxError

START, END = 1, 2


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(0, 15), min_size=1, max_size=10),
    block_length=st.integers(2, 9),
)
def test_pack_keeps_every_token_once_in_order(lengths, block_length):
    ids = iter(range(10, 10_000))
    documents = [np.array([next(ids) for _ in range(length)], np.int32) for length in lengths]
    stream = [token for document in documents if len(document) for token in [*document.tolist(), END]]
    content = block_length - 1
    if len(stream) < content:
        with pytest.raises(QtxError, match="fewer than one block"):
            pack(documents, START, END, block_length, "training")
        return
    blocks = pack(documents, START, END, block_length, "training")
    assert blocks.dtype == np.int32
    assert (blocks[:, 0] == START).all()
    kept = len(stream) // content * content
    assert blocks[:, 1:].ravel().tolist() == stream[:kept]


def test_pack_names_the_split_that_is_too_short():
    with pytest.raises(QtxError, match="held-out text has 4 tokens.*sequence_length"):
        pack([np.arange(3, dtype=np.int32)], START, END, 10, "held-out")
