"""Sentences of words with a label each, in columns (CoNLL) and JSON lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qtx.data.classes import Known, Numbering, are_unnamed, in_words, plain
from qtx.data.notes import EMPTY
from qtx.data.reading import json_lines, lines, text_kind, whole
from qtx.foundation.errors import QtxError

COLUMNS = (".conll", ".bio", ".iob", ".iob2", ".tsv", ".txt")
"""Suffixes of files with a word and its label per line."""
DOCUMENT = "-DOCSTART-"
COMMENT = "#"
BLANKS, NUMBER = re.compile(" +"), re.compile("[0-9]{1,9}")
TOKENS, TAGS = "tokens", ("ner_tags", "tags", "labels")
"""Keys of words and of their labels in a `.jsonl`, if no others are named; of labels the first that is there."""


class TaggedWords(NamedTuple):
    """A sentence: its words, and a label for each."""

    words: tuple[str, ...]
    labels: tuple[str, ...]


def tagged_words(
    path: str | Path,
    text_column: str | None = None,
    label_column: str | None = None,
    numbering: Numbering | None = None,
    mended: Counter[str] | None = None,
    labelled: bool = True,
) -> Iterator[TaggedWords]:
    """Yields the sentences of a file; labels are `plain`.

    Args:
      path: a file of a kind in `COLUMNS`, a word per line with as many columns in all lines, tabs or blanks between
        them, and an empty line after a sentence; lines that begin with `-DOCSTART-` end one too, and lines that begin
        with `#` and have other columns than words have are comments. Or a `.jsonl`, an object per line with a list of
        words and a list of labels. Plain or with `.gz`, `.xz` or `.zst`.
      text_column, label_column: numbers of columns from 0; None: the first and the last. Of a `.jsonl` keys; None: see
        `TOKENS` and `TAGS`.
      numbering: the classes that every label must belong to, and that labels may have by number, if the user has named
        them, or nobody has; None: any name is taken.
      mended: counts what had to be mended (see `qtx.data.reading.whole`), and sentences without a word.
      labelled: whether the labels are used, and checked; if not, there need not be any.

    Raises:
      QtxError: for a file that cannot be read or is of another kind, a column that is not there, a line with more or
        fewer columns than the first, another number of labels than of words, or a label that is of none of the classes.
    """
    kind = text_kind(path)
    if kind != ".jsonl" and kind not in COLUMNS:
        expected = ", ".join((*COLUMNS, ".jsonl"))
        raise QtxError(f"{path} has no words with labels: expected {expected}, plain or with .gz, .xz or .zst")
    read = _objects if kind == ".jsonl" else _columns
    for sentence in read(path, text_column, label_column, labelled):
        if not sentence and mended is not None:
            mended[EMPTY] += 1
        if not sentence:
            continue
        words = (word for word, _, _ in sentence)
        labels = (_name(label, where, numbering) if labelled else str(label) for _, label, where in sentence)
        yield TaggedWords(*(tuple(whole(x, mended) for x in part) for part in (words, labels)))


Sentence = list[tuple[str, Any, str]]
"""Each word, its label, and the file and line."""


def _columns(path: str | Path, text_column: str | None, label_column: str | None, labelled: bool) -> Iterator[Sentence]:
    rows = [(number, line.removesuffix("\r")) for number, line in enumerate(lines(path), 1)]
    of_words = [(number, line) for number, line in rows if line.strip() and _cells(line)[0] != DOCUMENT]
    first, model = next((row for row in of_words if not row[1].startswith(COMMENT)), (of_words or [(0, "")])[0])
    count, sentence, chosen = len(_cells(model)), Sentence(), None
    for number, line in rows:
        cells, where = _cells(line), f"{path}, line {number}"
        if not line.strip() or cells[0] == DOCUMENT:
            if sentence:
                yield sentence
            sentence = Sentence()
            continue
        # A word may begin so too; it then has the columns of the others.
        if line.startswith(COMMENT) and (len(cells) != count or ("\t" in line) != ("\t" in model)):
            continue
        chosen = chosen or _places(where, len(cells), text_column, label_column, labelled)
        if len(cells) != count:
            raise QtxError(f"{where}: {len(cells)} columns, but {count} in line {first}: expected as many")
        word, label = (cells[place].strip(" ") for place in chosen)
        sentence.append((word, label, where))
    if sentence:
        yield sentence


def _cells(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else BLANKS.split(line.strip(" "))


def _places(
    where: str, count: int, text_column: str | None, label_column: str | None, labelled: bool
) -> tuple[int, int]:
    if count < 2 and labelled:
        raise QtxError(f"{where}: only one column: expected a word and its label, with a tab or blanks between")
    named = {"text_column": text_column or "0", "label_column": label_column or str(count - 1)}
    for option, column in named.items():
        if not (column.isdecimal() and int(column) < count):
            raise QtxError(
                f"{where}: no column {column!r}, found {count}: set data.{option} to its number, from 0 to {count - 1}"
            )
    return int(named["text_column"]), int(named["label_column"])


def _objects(path: str | Path, text_column: str | None, label_column: str | None, labelled: bool) -> Iterator[Sentence]:
    for number, record in json_lines(path):
        where = f"{path}, line {number}"
        if not isinstance(record, dict):
            raise QtxError(f"{where}: expected an object with a list of words and a list of labels")
        tags = next((name for name in TAGS if name in record), TAGS[0])
        keys = {"text_column": text_column or TOKENS, "label_column": label_column or tags}
        if not labelled and keys["label_column"] not in record:
            del keys["label_column"]
        for option, key in keys.items():
            if not isinstance(record.get(key), list):
                there = f"{str(record[key])[:50]!r}" if key in record else f"not among {', '.join(record)[:100]}"
                raise QtxError(f"{where}: {key} is {there}: expected a list, or its key in data.{option}")
        words, *given = (record[key] for key in keys.values())
        labels = given[0] if given else [""] * len(words)
        if len(words) != len(labels):
            raise QtxError(f"{where}: {len(words)} words, but {len(labels)} labels: expected one for each")
        wrong = next((word for word in words if not isinstance(word, str)), None)
        if wrong is not None:
            raise QtxError(f"{where}: {str(wrong)[:50]!r} is no word: expected a list of texts")
        yield [(word, label, where) for word, label in zip(words, labels, strict=True)]


def _name(label: Any, where: str, numbering: Numbering | None) -> str:
    """Returns the name of a label that is a name, or a class's number."""
    named = numbering is not None and str(label).strip() in numbering.numbers
    if isinstance(label, str) and NUMBER.fullmatch(label.strip()) and not named:
        label = int(label)
    if isinstance(label, str):
        if not label.strip():
            raise QtxError(f"{where}: a word has no label: expected one, e.g. O")
        if numbering is not None:
            numbering.number(label, where)
        return plain(label)
    if not isinstance(label, int) or isinstance(label, bool):
        raise QtxError(f"{where}: label {str(label)[:50]!r}: expected a name, or the number of a class")
    if numbering is None:
        raise QtxError(
            f"{where}: labels are numbers: set data.classes to their names in this order, e.g. ('O', 'B-PER', 'I-PER')"
        )
    if isinstance(numbering.classes, Known) and not are_unnamed(numbering.classes):
        raise QtxError(
            f"{where}: labels are numbers, which need not be the model's, of {in_words(numbering.classes)}: give the "
            "labels' names instead, or set data.classes to the model's classes if the numbers are theirs"
        )
    if not 0 <= label < len(numbering.classes):
        raise QtxError(f"{where}: label {label} is the number of no class: there are {len(numbering.classes)}, from 0")
    return numbering.classes[label]


def labels_of(sentences: Sequence[TaggedWords]) -> Iterator[str]:
    """Yields the labels of all words."""
    return (label for sentence in sentences for label in sentence.labels)
