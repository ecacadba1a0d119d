"""Words with a label each, in CoNLL's columns and JSON lines, read into memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from qtx.data.classes import Numbering, check_classes, in_order
from qtx.data.dataset import Data
from qtx.data.label_values import TAGS
from qtx.data.labelled_files import LabelledFiles, check_any
from qtx.data.listing import expand
from qtx.data.objectives import TextObjective
from qtx.data.tagged import make_tagged_data
from qtx.data.tagged_files import TaggedWords, labels_of, tagged_words


@dataclass(frozen=True)
class TokenLabels(LabelledFiles):
    """UTF-8 sentences of words with labels: `.conll`, `.bio`, `.iob`, `.iob2`, `.tsv` and `.txt` with a word per line
    and an empty line after a sentence, or `.jsonl` with a list of words and one of labels; plain or compressed.

    Attributes:
      text_column: where the word is: a column's number from 0, or a key of a `.jsonl` file's objects; None: the first
        column, or `tokens`.
      label_column: where the label is; None: the last column, or `ner_tags`, `tags` or `labels`.
      classes: the labels in the order of their numbers, which a `.jsonl` may have instead; None: those of `files`.
    """

    text_column: str | None = None
    label_column: str | None = None
    classes: tuple[str, ...] | None = None

    named = "token_labels"
    formats = ".conll or .jsonl"

    def __post_init__(self):
        super().__post_init__()
        check_classes(self.classes)

    @staticmethod
    def serves(objective):
        return isinstance(objective, TextObjective) and (objective.taught or objective.label_kind == TAGS)

    def load(self, objective: TextObjective) -> Data:
        mended, classes = Counter[str](), self.classes

        def read(patterns: Sequence[str]) -> list[TaggedWords]:
            numbering = None if classes is None else Numbering(classes)
            options = self.text_column, self.label_column, numbering, mended, objective.labelled
            rows = [row for file in expand(patterns) for row in tagged_words(file, *options)]
            check_any(rows, patterns)
            return rows

        training = read(self.files)
        classes = classes or in_order(labels_of(training))  # also the labels of sentences held out of these files
        rows = self.with_held_out(training, read, objective, lambda row: " ".join(row.words), "sentence")
        return make_tagged_data(self, f"token_labels {' '.join(self.files)}", *rows, objective, classes, mended)
