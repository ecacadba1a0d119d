"""Texts with labels, in tables (`.tsv`), JSON lines and TFDS datasets."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qtx.data.classes import Numbering, plain
from qtx.data.label_values import CLASS, label_columns, label_text
from qtx.data.reading import TABLE, decoded, json_lines, lines, text_kind, whole
from qtx.data.tfds_datasets import TRAINING_SPLIT, find_dataset
from qtx.foundation.errors import QtxError


class LabelledText(NamedTuple):
    """A text and its label: the name of its class, or the text that `qtx.data.label_values` makes of other labels."""

    text: str
    label: str

    @property
    def texts(self) -> tuple[str, ...]:
        """Returns the text alone, as of a pair both."""
        return (self.text,)


class LabelledPair(NamedTuple):
    """Two texts that a model reads together, and their label."""

    text: str
    pair: str
    label: str

    @property
    def texts(self) -> tuple[str, ...]:
        """Returns both texts."""
        return self.text, self.pair


def check_columns(*columns: str) -> None:
    """Raises QtxError unless columns are all named, or all numbered."""
    if len({column.isdecimal() for column in columns}) > 1:
        raise QtxError(
            f"columns {' and '.join(map(repr, columns))}: expected names where there is a header, or numbers from 0 "
            "where there is none, but not both"
        )


def labelled_texts(
    path: str | Path,
    text_column: str,
    label_column: str,
    kind: str | None = CLASS,
    numbering: Numbering | None = None,
    mended: Counter[str] | None = None,
    pair_column: str | None = None,
) -> Iterator[LabelledText | LabelledPair]:
    """Yields the texts of a file with their labels; names of classes are `plain`.

    Args:
      path: a `.tsv`, a row per line, with a tab between columns and no quoting: a quotation mark is a character as any
        other; or a `.jsonl`, an object per line. Plain or with `.gz`, `.xz` or `.zst`.
      text_column, label_column: keys of the objects; of a table the names in its first line, or numbers from 0 if it
        has no such line. Labels that are no classes may be in several columns, with commas between their names.
      kind: the labels' kind, of `qtx.data.label_values`; None: the labels are not used, and need not be there.
      numbering: the classes that every label must belong to; None: any label is taken.
      mended: see `qtx.data.reading.whole`.
      pair_column: as `text_column`, of the second text of each pair; None: there are no pairs.

    Raises:
      QtxError: for a file that cannot be read or is of another kind, a column that is not there, a line without a label
        or with one of another kind, or a label that is of none of the classes.
    """
    readers = {TABLE: _rows, ".jsonl": _objects}
    format = text_kind(path)
    if format not in readers:
        raise QtxError(f"{path} is no table: expected {', '.join(readers)}, plain or with .gz, .xz or .zst")
    columns = label_columns(label_column, kind)
    of_texts = _text_columns(text_column, pair_column)
    for number, texts, values in readers[format](path, of_texts, columns, kind is not None):
        where = f"{path}, line {number}"
        label = whole(label_text(values, columns, kind, where), mended)
        if numbering is not None:
            numbering.number(label, where)
        yield _row([whole(text, mended) for text in texts], plain(label) if kind == CLASS else label)


def _text_columns(text_column: str, pair_column: str | None) -> tuple[str, ...]:
    return (text_column,) if pair_column is None else (text_column, pair_column)


def _row(texts: Sequence[str], label: str) -> LabelledText | LabelledPair:
    return LabelledText(texts[0], label) if len(texts) == 1 else LabelledPair(texts[0], texts[1], label)


def dataset_texts(
    name: str,
    held_out: bool,
    text_column: str,
    label_column: str,
    data_dir: str,
    mended: Counter[str] | None = None,
    pair_column: str | None = None,
) -> Iterator[LabelledText | LabelledPair]:
    """Yields the texts of a TFDS dataset's training split, or of its held-out one, with the names of their labels.

    Args:
      name, data_dir: see `find_dataset`.
      held_out: whether to read the held-out split.
      text_column, label_column, pair_column: names of features; see `labelled_texts`.
      mended: see `qtx.data.reading.whole`.

    Raises:
      QtxError: if the dataset, the split or a feature is not there, or a text has no label.
    """
    import tensorflow_datasets as tfds

    dataset = find_dataset(name, data_dir)
    split = dataset.held_out_split if held_out else TRAINING_SPLIT
    if split is None:
        raise QtxError(f"TFDS dataset {name} has no split to hold out: set data.held_out_fraction")
    of_texts = _text_columns(text_column, pair_column)
    kinds = {**dict.fromkeys(of_texts, tfds.features.Text), label_column: tfds.features.ClassLabel}
    for column, kind in kinds.items():
        if not isinstance(dataset.features.get(column), kind):
            found = ", ".join(f"{found} ({type(feature).__name__})" for found, feature in dataset.features.items())
            raise QtxError(f"TFDS dataset {name} has no feature {column} ({kind.__name__}): found {found}")
    labels, records = dataset.features[label_column], dataset.records(split, dict)
    for i, example in ((i, records[i]) for i in range(len(records))):
        number = int(example[label_column])
        if number < 0:  # TFDS's number for an unknown label
            raise QtxError(f"TFDS dataset {name}: a text of split {split} has no label: choose a split that has labels")
        texts = [decoded(example[column], f"{dataset.folder}, record {i}", mended) for column in of_texts]
        yield _row(texts, plain(labels.int2str(number)))


def _rows(
    path: str | Path, of_texts: Sequence[str], columns: Sequence[str], labelled: bool
) -> Iterator[tuple[int, list[str], list[Any]]]:
    rows: Iterator[tuple[int, list[str]]]
    ended = (line.removesuffix("\r") for line in lines(path))  # some editors end lines with a carriage return, too
    rows = ((number, line.split("\t")) for number, line in enumerate(ended, 1) if line)
    begin = next(rows, None)
    if begin is None:
        return
    line, names = begin
    if of_texts[0].isdecimal():
        names, rows = [str(index) for index in range(len(names))], itertools.chain([begin], rows)
    columns = columns if labelled else [column for column in columns if column in names]
    texts, labels = ([_index(path, line, column, names) for column in some] for some in (of_texts, columns))
    for number, row in rows:
        if len(row) != len(names):
            raise QtxError(
                f"{path}, line {number}: {len(row)} columns, but {len(names)} in line {line}: expected as many"
            )
        yield number, [row[text] for text in texts], [row[label] for label in labels]


def _objects(
    path: str | Path, of_texts: Sequence[str], columns: Sequence[str], labelled: bool
) -> Iterator[tuple[int, list[str], list[Any]]]:
    for number, record in json_lines(path):
        if not isinstance(record, dict):
            raise QtxError(f"{path}, line {number}: expected an object with {' and '.join((*of_texts, *columns))}")
        keys = list(record)
        there = columns if labelled else [column for column in columns if column in record]
        for column in (*of_texts, *there):
            _index(path, number, column, keys)
        texts, labels = ([record[column] for column in some] for some in (of_texts, there))
        for column, text in zip(of_texts, texts, strict=True):
            if not isinstance(text, str):
                raise QtxError(f"{path}, line {number}: {column} is {str(text)[:100]!r}: expected a text")
        yield number, texts, labels


def _index(path: str | Path, number: int, column: str, names: Sequence[str]) -> int:
    if column not in names:
        found = ", ".join(name[:20] for name in names[:8])
        raise QtxError(
            f"{path}, line {number}: no column {column!r}, found {found}: set data.text_column and data.label_column, "
            "to numbers from 0 for a .tsv without a header"
        )
    return names.index(column)
