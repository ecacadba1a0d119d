"""Texts with labels, in tables, JSON lines and TFDS datasets, read into memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qtx.data.classes import Numbering, check_classes, in_order
from qtx.data.dataset import Data
from qtx.data.label_values import CLASS, SEPARATOR, label_columns
from qtx.data.labelled import LabelledTextOptions
from qtx.data.listing import expand
from qtx.data.objectives import TextObjective
from qtx.data.splitting import DEFAULT_FRACTION, held_out_count, split_by_name
from qtx.data.tables import LabelledText, check_columns, dataset_texts, labelled_texts
from qtx.data.tfds_datasets import DEFAULT_DATA_DIR, PREFIX
from qtx.foundation.errors import QtxError


@dataclass(frozen=True)
class TextLabels(LabelledTextOptions):
    """UTF-8 texts with labels, one text per line.

    Attributes:
      files: paths or globs (`**` too) of the training texts: `.tsv`, without quoting, or `.jsonl`, plain or with `.gz`,
        `.xz` or `.zst`; or `tfds:NAME` (e.g. `tfds:imdb_reviews/plain_text`).
      validation_files: as `files`, of the held-out texts; None holds out some texts of `files`, or, if all `files` are
        TFDS's, takes their `validation` (else `test`) split.
      held_out_fraction: share of the texts to hold out, None is 0.05; not taken with `validation_files`.
      text_column: where the text is: a key of a `.jsonl` file's objects, a feature of a TFDS dataset, a name in the
        first line of a `.tsv`, or a column's number from 0 (`"3"`) if the file has no such line.
      label_column: where the label is, as for `text_column`; for an objective with several numbers or labels per text
        also the columns that have one each, with commas between their names.
      classes: the labels in the order of their numbers; None: those of `files`, sorted, as numbers if all are, or the
        names of several label columns.
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
        if self.held_out_fraction is not None:
            held_out_count(1, self.held_out_fraction)
        check_columns(self.text_column, *self.label_column.split(SEPARATOR))
        check_classes(self.classes, fewest=1)

    @property
    def _held_out_files(self) -> tuple[str, ...] | None:
        """Returns the files of the held-out texts; None: some texts of `files` are held out."""
        if self.held_out_fraction is None and all(file.startswith(PREFIX) for file in self.files):
            return self.validation_files or self.files
        return self.validation_files

    def defaults(self, objective: TextObjective) -> dict[str, Any]:
        fraction = DEFAULT_FRACTION if self._held_out_files is None else None
        return super().defaults(objective) | {"held_out_fraction": fraction}

    def load(self, objective: TextObjective) -> Data:
        name, mended = f"text_labels {' '.join(self.files)}", Counter[str]()
        kind = objective.label_kind if objective.labelled else None
        classes, columns = self.classes if kind else None, label_columns(self.label_column, kind or CLASS)
        if classes is None and len(columns) > 1 and not columns[0].isdecimal():
            classes = columns
        training = self._read(self.files, kind, classes, mended)
        if kind == CLASS and classes is None:  # also the labels of texts held out of these files
            classes = in_order(row.label for row in training)
        if self._held_out_files is not None:
            held_out = self._read(self._held_out_files, kind, classes, mended, held_out=True)
        else:
            fraction, remedy = self.resolved(objective).held_out_fraction, "set data.validation_files to held-out texts"
            training, held_out = split_by_name(training, lambda row: row.text, fraction or 0.0, "text", remedy)
        return self.make_labelled_data(name, training, held_out, objective, classes, mended)

    def _read(
        self,
        patterns: Sequence[str],
        kind: str | None,
        classes: Sequence[str] | None,
        mended: Counter[str],
        held_out: bool = False,
    ) -> list[LabelledText]:
        """Reads the texts with labels of a kind, which must be among the classes, if these are known."""
        columns, rows = (self.text_column, self.label_column), list[LabelledText]()
        numbering = Numbering(classes) if kind == CLASS and classes is not None else None
        for name in (pattern for pattern in patterns if pattern.startswith(PREFIX)):
            if kind not in (CLASS, None):
                raise QtxError(f"{name} gives classes alone: name .tsv or .jsonl files for labels that are {kind}")
            rows += dataset_texts(name.removeprefix(PREFIX), held_out, *columns, self.data_dir, mended)
        for file in expand([pattern for pattern in patterns if not pattern.startswith(PREFIX)]):
            rows += labelled_texts(file, *columns, kind, numbering, mended)
        if not rows:
            raise QtxError(f"no text in {' '.join(patterns)}: expected a file that is not empty")
        return rows
