"""Texts with labels, in tables, JSON lines and TFDS datasets, read into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from qtx.data.dataset import Data
from qtx.data.label_values import CLASS, SEPARATOR, label_columns
from qtx.data.labelled import LabelledTextOptions, split_labelled
from qtx.data.objectives import text_objective
from qtx.data.reading import expand
from qtx.data.splitting import held_out_count
from qtx.data.tables import LabelledText, check_columns, dataset_texts, labelled_texts
from qtx.data.tfds_datasets import DEFAULT_DATA_DIR, PREFIX
from qtx.foundation.errors import QtxError

DEFAULT_HELD_OUT_FRACTION = 0.05


@dataclass(frozen=True)
class TextLabels(LabelledTextOptions):
    """Texts with labels, UTF-8, a text a line.

    Attributes:
      files: paths or globs (`**` too) of the training texts: `.tsv`, without quoting, or `.jsonl`, plain or with `.gz`,
        `.xz` or `.zst`; or `tfds:NAME` (e.g. `tfds:imdb_reviews/plain_text`).
      validation_files: of the held-out texts; None holds out some of `files`, or is the `validation` (else `test`)
        split of `files` that are all TFDS's.
      held_out_fraction: share of the texts to hold out, None is 0.05; not taken with `validation_files`.
      text_column: where the text is: a key of a `.jsonl` file's objects, a feature of a TFDS dataset, or of a `.tsv` a
        name in its first line, or a number from 0 (`"3"`) if it has no such line.
      label_column: where the label is, likewise; of an objective with several numbers or labels of a text that, or the
        columns that have one each, with commas between their names.
      classes: the labels in the order of their numbers; None: those of the training texts, sorted, or of several
        columns their names.
      data_dir: the folder of TFDS datasets.
    """

    files: tuple[str, ...] = ()
    validation_files: tuple[str, ...] | None = None
    held_out_fraction: float | None = None
    text_column: str = "text"
    label_column: str = "label"
    classes: tuple[str, ...] | None = None
    data_dir: str = DEFAULT_DATA_DIR

    def __post_init__(self):
        super().__post_init__()
        if not self.files:
            raise QtxError("source text_labels needs files: set data.files to paths or globs of .tsv or .jsonl files")
        if self.validation_files is not None and self.held_out_fraction is not None:
            raise QtxError("validation_files and held_out_fraction are both set: keep one, either holds out text")
        held_out_count(1, self._fraction)
        check_columns(self.text_column, *self.label_column.split(SEPARATOR))
        if self.classes is not None:
            texts = all(isinstance(name, str) for name in self.classes)
            if not texts or len(set(self.classes)) < max(1, len(self.classes)):
                raise QtxError(f"classes is {self.classes!r}: expected labels, each once, ('neg', 'pos')")

    @property
    def _fraction(self) -> float:
        return DEFAULT_HELD_OUT_FRACTION if self.held_out_fraction is None else self.held_out_fraction

    @property
    def _held_out_files(self) -> tuple[str, ...] | None:
        """None: some of `files` are held out."""
        if self.held_out_fraction is None and all(file.startswith(PREFIX) for file in self.files):
            return self.validation_files or self.files
        return self.validation_files

    def resolved(self, objective: str) -> Self:
        options = super().resolved(objective)
        return options if self._held_out_files is not None else replace(options, held_out_fraction=self._fraction)

    def load(self, objective: str) -> Data:
        chosen, name = text_objective(objective), f"text_labels {' '.join(self.files)}"
        kind = chosen.label_kind if chosen.labelled else None
        training = self._read(self.files, kind)
        if self._held_out_files is not None:
            held_out = self._read(self._held_out_files, kind, held_out=True)
        else:
            training, held_out = split_labelled(training, self._fraction, "set data.validation_files to held-out texts")
        columns = label_columns(self.label_column, kind)
        named = len(columns) > 1 and not columns[0].isdecimal()
        classes = columns if self.classes is None and named else self.classes
        return self.make_labelled_data(name, training, held_out, objective, classes)

    def _read(self, patterns: Sequence[str], kind: str | None, held_out: bool = False) -> list[LabelledText]:
        columns, rows = (self.text_column, self.label_column), list[LabelledText]()
        for name in (pattern for pattern in patterns if pattern.startswith(PREFIX)):
            if kind not in (CLASS, None):
                raise QtxError(f"{name} gives classes alone: name .tsv or .jsonl files for labels that are {kind}")
            rows += dataset_texts(name.removeprefix(PREFIX), held_out, *columns, self.data_dir)
        for file in expand([pattern for pattern in patterns if not pattern.startswith(PREFIX)]):
            rows += labelled_texts(file, *columns, kind)
        if not rows:
            raise QtxError(f"no text in {' '.join(patterns)}: expected a file that is not empty")
        return rows
