"""The lines of a long table: an interrupted run goes on where it was."""

from __future__ import annotations

import json

import pytest

from experiments.table10 import read_complete
from qtx.foundation.errors import QtxError

LINES = [{"variant": "softmax", "seed": seed, "scheme": "fp", "metric": "perplexity", "value": 3.5} for seed in (0, 1)]


@pytest.mark.parametrize("rest", ["", '{"variant": "soft', "{"])
def test_a_half_written_last_line_is_measured_again(tmp_path, rest):
    file = tmp_path / "table10.jsonl"
    assert read_complete(file) == []
    whole = "".join(json.dumps(line) + "\n" for line in LINES)
    file.write_text(whole + rest)
    assert read_complete(file) == LINES
    assert file.read_text() == whole  # what is appended now begins a line
    file.write_text(rest)
    assert read_complete(file) == []


def test_another_line_that_is_none_is_told(tmp_path):
    (tmp_path / "table10.jsonl").write_text('{"variant": "soft\n' + json.dumps(LINES[0]) + "\n")
    with pytest.raises(QtxError, match="line 1 of .*table10.jsonl is not a measurement"):
        read_complete(tmp_path / "table10.jsonl")
