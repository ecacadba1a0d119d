"""Text files as streams: decompressed by suffix, decoded, cut into documents."""

from __future__ import annotations

import codecs
import gzip
import itertools
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from qtx.data.notes import HALVES
from qtx.foundation.errors import QtxError

TEXT_SUFFIXES = (".txt", ".md", ".jsonl")
TABLE = ".tsv"
CHUNK = 1 << 20
"""Number of bytes read at once."""
ZSTD_CHUNK = 1 << 12
"""Number of bytes of a .zst read at once: each can become 32,768."""
LONGEST = 4_000_000
"""Most characters of a document: a corpus in a single file must not become one document in memory."""
NOWHERE = r"(?!)"
"""The regular expression that matches nothing."""
LOOKAHEAD = 4096
"""Most characters of a match of a document separator, with what the separator looks ahead to."""
OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""Encodings by the byte-order mark that a text in them begins with, the longer marks first."""
BYTE_ORDER_MARK = "\ufeff"
HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair, which JSON may have and text may not, e.g. of an emoji that a limit of characters cut."""


def text_kind(path: str | Path) -> str:
    """Returns the suffix that says what a file holds, in lower case, e.g. `.jsonl` for `A.JSONL.zst`."""
    path = Path(path)
    return (Path(path.stem).suffix if path.suffix.lower() in DECOMPRESS else path.suffix).lower()


def read_text(path: str | Path) -> str:
    """Returns the whole text of a file; see `text_chunks`."""
    return "".join(text_chunks(path))


def text_chunks(path: str | Path) -> Iterator[str]:
    """Yields a UTF-8 file's text in pieces, decompressed by the suffix `.gz`, `.xz` or `.zst`, without byte-order mark.

    Raises:
      QtxError: for a file that cannot be read or decompressed, or is not UTF-8 (naming the encoding or the byte).
    """
    decoder, offset, begun = codecs.getincrementaldecoder("utf-8")(), 0, False
    try:
        with Path(path).open("rb") as file:
            chunks = DECOMPRESS.get(Path(path).suffix.lower(), _plain)(file)
            for chunk in itertools.chain(chunks, [b""]):  # no bytes are the end of the text
                other = next((name for mark, name in OTHER_ENCODINGS.items() if chunk.startswith(mark)), None)
                if other and not offset:
                    raise QtxError(f"{path} is {other} text: convert it, iconv -f {other} -t UTF-8 FILE > CONVERTED")
                if b"\0" in chunk:
                    position = offset + chunk.index(b"\0")
                    raise QtxError(f"{path} is not text: zero byte at offset {position:,}; unpack an archive first")
                pending = len(decoder.getstate()[0])
                try:
                    text = decoder.decode(chunk, final=not chunk)
                except UnicodeDecodeError as error:
                    place = offset - pending + error.start
                    raise QtxError(
                        f"{path} is not UTF-8 text: byte 0x{error.object[error.start]:02x} at offset {place:,}; "
                        "convert the file, e.g. with iconv -t UTF-8"
                    ) from None
                yield text if begun else text.removeprefix(BYTE_ORDER_MARK)
                begun, offset = begun or bool(text), offset + len(chunk)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError) as error:
        raise QtxError(f"cannot read {path}: {error}") from error


def _plain(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _zstd(file: BinaryIO) -> Iterator[bytes]:
    # The library's own stream reader takes a file that was cut short for a complete one.
    frame = zstandard.ZstdDecompressor().decompressobj()
    ready = bytearray()
    while chunk := file.read(ZSTD_CHUNK):
        while chunk:
            if frame.eof:
                frame = zstandard.ZstdDecompressor().decompressobj()
            ready += frame.decompress(chunk)
            chunk = frame.unused_data
        if len(ready) >= CHUNK:
            yield bytes(ready)
            ready.clear()
    if ready:
        yield bytes(ready)
    if not frame.eof:
        raise EOFError("compressed file ended before the end-of-stream marker was reached")


DECOMPRESS: dict[str, Callable[[BinaryIO], Iterator[bytes]]] = {
    ".gz": lambda file: _plain(gzip.GzipFile(fileobj=file)),  # type: ignore[arg-type]
    ".xz": lambda file: _plain(lzma.LZMAFile(file)),  # type: ignore[arg-type]
    ".zst": _zstd,
}
"""Decompressors by the file's suffix."""


def documents(path: str | Path, separator: str | None, mended: Counter[str] | None = None) -> Iterator[str]:
    """Yields the documents of a text file, but for those of white space alone.

    Each line of a `.jsonl` file is an object whose `text` is a document. In another file every match of `separator`
    begins a document; without `separator` the file is one document (but see `cut`). `mended` is explained in `whole`.

    Raises:
      QtxError: for a file that cannot be read, is a table, or has a line that is no such object.
    """
    found = whole_documents(path, mended) if text_kind(path) in (".jsonl", TABLE) else cut(text_chunks(path), separator)
    return (document for document in found if document.strip())


def whole_documents(path: str | Path, mended: Counter[str] | None = None) -> Iterator[str]:
    """Returns the documents of a text file as they are, also those of white space alone: each line's `text` of a
    `.jsonl` file, or all of another file; see `documents`."""
    if text_kind(path) == TABLE:
        raise QtxError(f"{path} is a table, not text: source text_labels reads texts with labels")
    return _texts_of_objects(path, mended) if text_kind(path) == ".jsonl" else iter([read_text(path)])


def check_separator(separator: str | None) -> None:
    """Raises QtxError unless a document separator is a regular expression, or None."""
    try:
        re.compile(separator or "")
    except re.error as error:
        raise QtxError(f"document_separator {separator!r} is no regular expression: {error}") from None


def cut(chunks: Iterable[str], separator: str | None) -> Iterator[str]:
    """Cuts a text before every match of a regular expression (multi-line mode), and strips newlines off these pieces.

    A piece that would be longer than `LONGEST` is cut at the end of a line, or within a line as long as that.
    """
    pattern = re.compile(NOWHERE if separator is None else separator, re.MULTILINE)
    tidy: Callable[[str], str] = str if separator is None else lambda piece: piece.strip("\n")
    text, searched = "", 0

    def pieces(limit: int) -> Iterator[str]:
        nonlocal text, searched
        begin = 0
        for match in pattern.finditer(text, searched):
            if match.end() > limit:
                break
            yield tidy(text[begin : match.start()])
            begin, searched = match.start(), match.end()
        text, searched = text[begin:], max(searched, limit - LOOKAHEAD) - begin

    for chunk in chunks:
        text += chunk
        # A match in the last characters may change when the text goes on, so it is left for the next round.
        yield from pieces(len(text) - LOOKAHEAD)
        while len(text) > LONGEST + LOOKAHEAD:
            end = text.rfind("\n", 0, LONGEST) + 1 or LONGEST
            yield tidy(text[:end])
            text, searched = text[end:], max(0, searched - end)
    yield from pieces(len(text))
    yield tidy(text)


def whole(text: str, mended: Counter[str] | None = None) -> str:
    """Turns a string of JSON into text: each half of a surrogate pair becomes U+FFFD, and is counted in `mended`."""
    text, count = HALF.subn("\ufffd", text)
    if mended is not None and count:
        mended[HALVES] += count
    return text


def decoded(content: bytes, what: str, mended: Counter[str] | None = None) -> str:
    """Decodes a dataset's bytes to text; see `whole`.

    Raises:
      QtxError: with `what`, if the bytes are not UTF-8.
    """
    try:
        return whole(content.decode("utf-8", "surrogatepass"), mended)
    except UnicodeDecodeError as error:
        raise QtxError(f"{what} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def _texts_of_objects(path: str | Path, mended: Counter[str] | None) -> Iterator[str]:
    for number, record in json_lines(path):
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise QtxError(
                f'{path}, line {number}: no "text": expected an object such as {{"text": "Once upon a time"}}'
            )
        yield whole(record["text"], mended)


def json_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Yields the number, from 1, and the value of each line of a `.jsonl` file, but for empty lines.

    Raises:
      QtxError: for a file that cannot be read, or a line that is not JSON.
    """
    for number, line in enumerate(lines(path), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise QtxError(
                f"{path}, line {number}: not JSON ({error}): expected an object with a text a line"
            ) from None
        yield number, record


def lines(path: str | Path) -> Iterator[str]:
    """Yields the lines of a file, cut at line feeds alone and without them; see `text_chunks`."""
    rest: list[str] = []
    for chunk in text_chunks(path):
        first, *others = chunk.split(
            "\n"
        )  # never splitlines, which also cuts at characters that JSON leaves as they are
        rest.append(first)
        if others:
            yield "".join(rest)
            yield from others[:-1]
            rest = others[-1:]
    yield "".join(rest)
