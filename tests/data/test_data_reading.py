"""Text as a stream: nothing depends on where the pieces end, and what is broken is told."""

from __future__ import annotations

import gzip
import json
import lzma
import re
from collections import Counter

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from qtx.data import reading
from qtx.data.reading import cut, decoded, documents, read_text, text_chunks, text_kind
from qtx.foundation.errors import QtxError


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(reading, "CHUNK", 3)


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_characters_over_the_ends_of_pieces(tmp_path, small_pieces, suffix):
    text = "aé漢字😀\r\nnaïve " * 5
    compress = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}[suffix]
    # Two streams one after the other are one text, as the command-line tools have it.
    halves = text[:17].encode(), text[17:].encode()
    file = tmp_path / f"a.txt{suffix}"
    file.write_bytes(b"".join(map(compress, halves)))
    assert read_text(file) == text
    assert text_kind(file) == ".txt"


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_a_byte_order_mark_is_no_text(tmp_path, small_pieces, suffix):
    """At the beginning of a file; further on it is the character that it always was."""
    compress = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}[suffix]
    for name, text in {"a.TXT": "one\ufefftwo", "b.md": "", "c.Jsonl": '{"text": "one\ufefftwo"}'}.items():
        file = tmp_path / f"{name}{suffix.upper()}"
        file.write_bytes(compress(b"\xef\xbb\xbf" + text.encode()))
        assert list(documents(file, None)) == (["one\ufefftwo"] if text else [])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_another_encoding_is_told_by_its_name(tmp_path, encoding):
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeff漢字".encode(encoding) if encoding == "utf-16-be" else "漢字".encode(encoding))
    name = encoding.upper()[:6]
    with pytest.raises(QtxError, match=f"a.txt is {name} text: convert it, iconv -f {name} -t UTF-8"):
        list(text_chunks(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"caf\xe9 noir", "byte 0xe9 at offset 3"),
        (b"0123456789 \xe6\xbc", "byte 0xe6 at offset 11"),
        ("漢字".encode() + b"\xff", "byte 0xff at offset 6"),
        (b"0123456789\0", "zero byte at offset 10"),
    ],
)
def test_what_is_no_text_is_told_with_its_place(tmp_path, small_pieces, content, message):
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    with pytest.raises(QtxError, match=message):
        list(text_chunks(file))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["cut short", "no archive", "empty"])
def test_broken_compression(tmp_path, suffix, damage):
    compress = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}[suffix]
    whole = compress(bytes(range(32, 127)) * 50)
    file = tmp_path / f"a.txt{suffix}"
    file.write_bytes({"cut short": whole[:-5], "no archive": b"plain text, so no archive", "empty": b""}[damage])
    if (suffix, damage) == (".gz", "empty"):
        assert read_text(file) == ""  # as gzip itself has it
        return
    with pytest.raises(QtxError, match=f"cannot read .*a.txt{suffix}"):
        read_text(file)


SEPARATORS = (r"\n\n", r"^= [^=]* =$", r"^#", "b+")


@settings(deadline=None)
@given(
    text=st.text(alphabet="ab=# \n", max_size=80),
    pieces=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    separator=st.sampled_from(SEPARATORS),
)
def test_documents_do_not_depend_on_pieces(text, pieces, separator):
    starts = [match.start() for match in re.finditer(separator, text, re.MULTILINE)]
    bounds = [0, *starts, len(text)]
    expected = [text[begin:end].strip("\n") for begin, end in zip(bounds, bounds[1:], strict=False)]
    chunks, position = [], 0
    while position < len(text):
        size = pieces[len(chunks) % len(pieces)]
        chunks.append(text[position : position + size])
        position += size
    before, reading.LOOKAHEAD = reading.LOOKAHEAD, 20
    try:
        found = list(cut(chunks, separator))
    finally:
        reading.LOOKAHEAD = before
    # What a match may need is bounded: longer runs of b may be cut elsewhere.
    if max(map(len, re.findall(separator, text, re.MULTILINE)), default=0) < 10:
        assert found == expected


@pytest.mark.parametrize("separator", [None, r"^#"])
def test_a_document_without_end_is_cut_at_lines(monkeypatch, separator):
    monkeypatch.setattr(reading, "LONGEST", 50)
    monkeypatch.setattr(reading, "LOOKAHEAD", 10)
    lines = [f"line {i}" for i in range(100)]
    text = "\n".join(lines) + "\n" + "x" * 120
    pieces = list(cut([text[i : i + 7] for i in range(0, len(text), 7)], separator))
    assert max(map(len, pieces)) <= 60
    assert [line for piece in pieces for line in piece.strip("\n").split("\n")][:100] == lines
    assert "".join(pieces)[-120:] == "x" * 120


def test_json_lines(tmp_path, small_pieces):
    texts = ["one\nline", "a separator\u2028in a string", "  ", "last"]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps({"text": t, "n": 1}, ensure_ascii=False) for t in texts) + "\n\n")
    assert list(documents(file, None)) == [texts[0], texts[1], texts[3]]


def test_half_of_a_surrogate_pair_becomes_a_replacement_character(tmp_path):
    file, mended = tmp_path / "a.jsonl", Counter[str]()
    file.write_text(
        '{"text": "cut \\ud83d"}\n{"text": "\\ude00 whole \\ud83d\\ude00"}\n{"text": "\\udc80\\ud83d \ufffd"}\n'
    )
    texts = ["cut \ufffd", "\ufffd whole \U0001f600", "\ufffd\ufffd \ufffd"]
    assert list(documents(file, None, mended)) == texts and mended == {"halves": 4}
    for text in texts:
        text.encode()


def test_the_bytes_of_a_dataset():
    mended = Counter[str]()
    assert decoded(b"a \xed\xa0\xbd", "it", mended) == "a \ufffd" and mended == {"halves": 1}
    with pytest.raises(QtxError, match="it is not UTF-8 text: .* at byte 3"):
        decoded(b"caf\xe9", "it")
