"""Windows over a text: which tokens count, of how many bytes and words they are, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qtx.data import DataConfig, load
from qtx.data.sources import TextWindows
from qtx.data.windows import spans
from qtx.foundation.errors import QtxError

from .samples import prose

TEXT = "  \u00e9t\u00e9 and \U0001f600\n\n" + prose(3, 70) + " \u65e5\u672c \n"


def made(tmp_path, **options):
    (tmp_path / "a.txt").write_text(prose(0, 300), encoding="utf-8")
    (tmp_path / "b.txt").write_text(TEXT, encoding="utf-8")
    files = dict(files=(f"{tmp_path}/a.txt",), validation_files=(f"{tmp_path}/b.txt",))
    data = load(DataConfig(TextWindows(**files, vocab_size=300, **options)), "clm")
    return data, [data.example(block, np.random.default_rng(0)) for block in data.held_out]


@pytest.mark.parametrize(
    ("begun", "stride"), [(False, 16), (False, 5), (False, 1), (True, 15), (True, 4), (True, None)]
)
def test_every_token_counts_once_after_as_much_as_its_window_has_before_it(begun, stride, tmp_path):
    data, examples = made(tmp_path, sequence_length=16, stride=stride, begin_windows=begun)
    (ids,), start = data.tokenizer.encode([TEXT]), data.tokenizer.start
    stream = [int(i) for i in ids] if begun else [start, *map(int, ids)]
    room, step = 16 - begun, stride or 16 - begun
    expected = {}  # token -> the tokens before it that its first window has
    for begin in range(0, len(stream), step):
        for place in range(begin + (not begun), min(begin + room, len(stream))):
            if not any(other <= place < other + room for other in range(0, begin, step)):
                expected[place] = [start] * begun + stream[begin:place]
        if begin + room >= len(stream):
            break
    found = [
        (row["tokens"][: t + 1].tolist(), int(row["labels"][t]))
        for row in examples
        for t in np.flatnonzero(row["weights"])
    ]
    assert found == [(before, stream[place]) for place, before in expected.items()]
    for row in examples:
        assert row["mask"][: int(row["mask"].sum())].all() and not row["weights"][int(row["mask"].sum()) - 1 :].any()


@pytest.mark.parametrize("options", [{"stride": 7}, {"begin_windows": True}])
def test_tokens_that_count_have_the_bytes_and_words_of_the_text(options, tmp_path):
    """If every token counts, these are of the whole text, though letters are of several bytes and of several tokens."""
    _, examples = made(tmp_path, sequence_length=16, **options)
    assert sum(row["bytes"] for row in examples) == len(TEXT.encode())
    assert sum(row["words"] for row in examples) == len(TEXT.split())
    assert all(row["bytes"] >= 0 and row["words"] >= 0 for row in examples)


def test_the_first_token_of_a_window_alone_takes_its_bytes_with_it(tmp_path):
    data, examples = made(tmp_path, sequence_length=16)
    lost = [data.tokenizer.encode([TEXT])[0][i - 1] for i in range(16, 16 * len(examples), 16)]
    assert 0 < len(TEXT.encode()) - sum(row["bytes"] for row in examples) <= 4 * len(lost)


def test_documents_are_joined_as_they_are_the_empty_ones_too(tmp_path):
    rows = ["one\n", "", "two", " \n"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    (tmp_path / "b.txt").write_text("|".join(rows))
    names = [(f"{tmp_path}/{name}",) for name in ("a.jsonl", "b.txt")]
    options = dict(sequence_length=8, joint="|", vocab_size=260)
    joined, whole = (
        load(DataConfig(TextWindows(files=name, validation_files=name, **options)), "clm") for name in names
    )
    np.testing.assert_array_equal(joined.held_out, whole.held_out)
    assert "documents joined by '|'" in joined.description


def test_spans_end_with_the_text():
    assert list(spans(10, 4, 4)) == [(0, 4, 0), (4, 8, 4), (8, 10, 8)]
    assert list(spans(9, 6, 2)) == [(0, 6, 0), (2, 8, 6), (4, 9, 8)]
    assert list(spans(3, 6, 2)) == [(0, 3, 0)]


REFUSED = {
    "stride beyond": (dict(stride=17), "stride is 17, but a window has 16 tokens of the text.*: expected 16 or less"),
    "stride beyond what is begun": (dict(stride=16, begin_windows=True), "expected 15 or less"),
    "stride 0": (dict(stride=0), "stride is 0: expected at least 1"),
    "prompt": (dict(prompt="query"), "prompt is set, but source text_windows measures a text's own tokens"),
    "both": (dict(validation_files=("b",), held_out_fraction=0.1), "validation_files and held_out_fraction are both"),
    "no files": (dict(files=()), "source text_windows needs files"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_options_that_cannot_be(options, message):
    with pytest.raises(QtxError, match=message):
        TextWindows(**{"files": ("a",), "sequence_length": 16, **options})


FILES = {
    "one document": ("a.txt", "some text", "there is only one document to split; set data.validation_files"),
    "empty": ("a.txt", " \n ", "no text in .*a.txt: expected a file that is not empty"),
    "table": ("a.tsv", "a\tb", "is a table, not text: source text_labels"),
    "no text": ("a.jsonl", '{"page": "x"}', 'line 1: no "text"'),
}


@pytest.mark.parametrize(("name", "content", "message"), FILES.values(), ids=FILES)
def test_files_that_cannot_be(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(QtxError, match=message):
        load(DataConfig(TextWindows(files=(f"{tmp_path}/{name}",))), "clm")
