"""Texts with labels, in tables (`.tsv`) and JSON lines."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qtx.data.reading import TABLE, json_lines, lines, text_kind
from qtx.foundation.errors import QtxError


class LabelledText(NamedTuple):
    """A text and the name of its class."""

    text: str
    label: str


def check_columns(*columns: str) -> None:
    """Raises QtxError unless columns are all named, or all numbered."""
    if len({column.isdecimal() for column in columns}) > 1:
        raise QtxError(
            f"columns {' and '.join(map(repr, columns))}: expected names where there is a header, or numbers from 0 where "
            "there is none, but not both"
        )


def labelled_texts(path: str | Path, text_column: str, label_column: str) -> Iterator[LabelledText]:
    """The texts of a file and their labels.

    Args:
      path: a `.tsv`, a row a line, with a tab between columns and no quoting: a quotation mark is a character as any
        other; or a `.jsonl`, an object a line. Plain or with `.gz`, `.xz` or `.zst`.
      text_column, label_column: keys of the objects; of a table the names in its first line, or numbers from 0 if it
        has no such line.

    Raises:
      QtxError: for a file that cannot be read or is of another kind, a column that is not there, or a line without a
        label.
    """
    readers = {TABLE: _rows, ".jsonl": _objects}
    kind = text_kind(path)
    if kind not in readers:
        raise QtxError(f"{path} is no table: expected {', '.join(readers)}, plain or with .gz, .xz or .zst")
    for number, text, label in readers[kind](path, (text_column, label_column)):
        if not label.strip():
            raise QtxError(f"{path}, line {number}: no label: expected one in column {label_column}")
        yield LabelledText(text, label)


def _rows(path: str | Path, columns: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    rows = ((number, line.split("\t")) for number, line in enumerate(_table_lines(path), 1) if line)
    first = next(rows, None)
    if first is None:
        return
    header = first[1]
    if columns[0].isdecimal():
        indices, rows = [int(column) for column in columns], itertools.chain([first], rows)
        missing = next((index for index in indices if index >= len(header)), None)
        if missing is not None:
            raise QtxError(f"{path} has no column {missing}: found {len(header)}, numbered from 0")
    else:
        missing = next((column for column in columns if column not in header), None)
        if missing is not None:
            raise _no_column(
                path, first[0], missing, header, "or columns by their numbers, from 0, if it has no header"
            )
        indices = [header.index(column) for column in columns]
    for number, row in rows:
        if len(row) != len(header):
            raise QtxError(f"{path}, line {number}: {len(row)} columns, but {len(header)} in line {first[0]}")
        text, label = (row[index] for index in indices)
        yield number, text, label


def _table_lines(path: str | Path) -> Iterator[str]:
    """Lines without what the editors of some systems put at a file's beginning and at the ends of lines."""
    for number, line in enumerate(lines(path)):
        yield (line if number else line.removeprefix("\ufeff")).removesuffix("\r")


def _objects(path: str | Path, columns: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    for number, record in json_lines(path):
        if not isinstance(record, dict):
            raise QtxError(
                f"{path}, line {number}: expected an object such as {{{columns[0]!r}: ..., {columns[1]!r}: ...}}"
            )
        missing = next((column for column in columns if column not in record), None)
        if missing is not None:
            raise _no_column(path, number, missing, list(record), "")
        text, label = (record[column] for column in columns)
        if not isinstance(text, str):
            raise _wrong(path, number, columns[0], text, "a text")
        if isinstance(label, bool) or not isinstance(label, str | int):
            raise _wrong(path, number, columns[1], label, "a text or a whole number")
        yield number, text, str(label)


def _no_column(path: str | Path, number: int, missing: str, found: Sequence[str], more: str) -> QtxError:
    names = ", ".join(name[:20] for name in found[:8])
    return QtxError(
        f"{path}, line {number}: no column {missing!r}, found {names}: set data.text_column and data.label_column to two "
        f"of them{', ' * bool(more)}{more}"
    )


def _wrong(path: str | Path, number: int, column: str, value: Any, expected: str) -> QtxError:
    return QtxError(f"{path}, line {number}: {column} is {str(value)[:100]!r}: expected {expected}")
