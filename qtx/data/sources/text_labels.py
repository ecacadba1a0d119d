"""Texts with labels, in tables, JSON lines and TFDS datasets, read into memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from qtx.data.classes import Numbering, check_classes, in_order
from qtx.data.dataset import Data
from qtx.data.label_values import CLASS, SEPARATOR, label_columns
from qtx.data.labelled import LabelledTextOptions
from qtx.data.labelled_files import LabelledFiles, check_any
from qtx.data.listing import expand
from qtx.data.objectives import TextObjective
from qtx.data.tables import LabelledPair, LabelledText, check_columns, dataset_texts, labelled_texts
from qtx.data.tfds_datasets import DEFAULT_DATA_DIR, PREFIX
from qtx.foundation.errors import QtxError


@dataclass(frozen=True)
class TextLabels(LabelledFiles, LabelledTextOptions):
    """UTF-8 texts with labels, one text or pair of texts per line.

    Attributes:
      files: paths or globs (`**` too) of the training texts: `.tsv`, without quoting, or `.jsonl`, plain or with `.gz`,
        `.xz` or `.zst`; or `tfds:NAME` (e.g. `tfds:imdb_reviews/plain_text`).
      validation_files: as `files`, of the held-out texts; None holds out some texts of `files`, or, if all `files` are
        TFDS's, takes their `validation` (else `test`) split.
      held_out_fraction: share of the texts to hold out, None is 0.05; not taken with `validation_files`.
      text_column: where the text is: a key of a `.jsonl` file's objects, a feature of a TFDS dataset, a name in the
        first line of a `.tsv`, or a column's number from 0 (`"3"`) if the file has no such line.
      text_pair_column: as `text_column`, where the second text of each pair is; None: a text stands alone. Pairs with
        the same first text stay on one side of the split.
      label_column: where the label is, as for `text_column`; for an objective with several numbers or labels per text
        also the columns that have one each, with commas between their names.
      classes: the labels in the order of their numbers; None: those of `files`, sorted, as numbers if all are, or the
        names of several label columns.
      data_dir: the folder of TFDS datasets.
    """

    text_column: str = "text"
    label_column: str = "label"
    classes: tuple[str, ...] | None = None
    text_pair_column: str | None = None
    data_dir: str = DEFAULT_DATA_DIR

    named = "text_labels"
    formats = ".tsv or .jsonl"

    def __post_init__(self):
        super().__post_init__()
        check_columns(*self._text_columns)
        check_classes(self.classes, fewest=1)

    def pairs(self, objective):
        return self.text_pair_column is not None

    @property
    def _text_columns(self) -> tuple[str, ...]:
        return tuple(column for column in (self.text_column, self.text_pair_column) if column is not None)

    @property
    def held_out_files(self):
        if self.held_out_fraction is None and all(file.startswith(PREFIX) for file in self.files):
            return self.validation_files or self.files
        return self.validation_files

    def load(self, objective: TextObjective) -> Data:
        name, mended = f"text_labels {' '.join(self.files)}", Counter[str]()
        kind = objective.label_kind if objective.labelled else None
        if kind is not None:
            check_columns(*self._text_columns, *self.label_column.split(SEPARATOR))
        classes, columns = self.classes if kind else None, label_columns(self.label_column, kind or CLASS)
        if classes is None and len(columns) > 1 and not columns[0].isdecimal():
            classes = columns
        training = self._read(self.files, kind, classes, mended)
        if kind == CLASS and classes is None:  # also the labels of texts held out of these files
            classes = in_order(row.label for row in training)

        def read(patterns: Sequence[str]) -> list[LabelledText | LabelledPair]:
            return self._read(patterns, kind, classes, mended, held_out=True)

        rows = self.with_held_out(training, read, objective, lambda row: row.text, "text")
        return self.make_labelled_data(name, *rows, objective, classes, mended)

    def _read(
        self,
        patterns: Sequence[str],
        kind: str | None,
        classes: Sequence[str] | None,
        mended: Counter[str],
        held_out: bool = False,
    ) -> list[LabelledText | LabelledPair]:
        """Reads the texts with labels of a kind, which must be among the classes, if these are known."""
        columns, rows = (self.text_column, self.label_column), list[LabelledText | LabelledPair]()
        pair = self.text_pair_column
        numbering = Numbering(classes) if kind == CLASS and classes is not None else None
        for name in (pattern for pattern in patterns if pattern.startswith(PREFIX)):
            if kind not in (CLASS, None):
                raise QtxError(f"{name} gives classes alone: name .tsv or .jsonl files for labels that are {kind}")
            rows += dataset_texts(name.removeprefix(PREFIX), held_out, *columns, self.data_dir, mended, pair)
        for file in expand([pattern for pattern in patterns if not pattern.startswith(PREFIX)]):
            rows += labelled_texts(file, *columns, kind, numbering, mended, pair)
        check_any(rows, patterns)
        return rows
