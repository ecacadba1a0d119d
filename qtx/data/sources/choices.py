"""Questions with choices in JSON lines, read into memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from qtx.data.choice_files import ChoiceQuestion, choice_questions
from qtx.data.chosen import make_choice_data
from qtx.data.dataset import Data
from qtx.data.label_values import CHOICES
from qtx.data.labelled_files import LabelledFiles, check_any
from qtx.data.listing import expand
from qtx.data.objectives import TextObjective
from qtx.foundation.errors import QtxError


@dataclass(frozen=True)
class ChoiceQuestions(LabelledFiles):
    """Questions with a few choices each, in `.jsonl` files as lm-evaluation-harness's tasks have them, plain or
    compressed. Questions with the same text and choices are on one side of the split.

    Attributes:
      text_column: the key of the text that a choice goes on, or of a list of such texts, one for each choice; None:
        `query`, `question` or `ctx`.
      choices_column: the key of the list of choices; None: `choices` or `endings`.
      label_column: the key of the right choice, a number from 0, or the choice's name or text; None: `gold`, `label`,
        `answer` or `answerKey`.
      delimiter: the text between the two, lm-evaluation-harness's `target_delimiter`.
    """

    text_column: str | None = None
    label_column: str | None = None
    choices_column: str | None = None
    delimiter: str = " "

    named = "choices"
    formats = ".jsonl"

    def __post_init__(self):
        super().__post_init__()
        if self.prompt:
            raise QtxError("prompt is set, but source choices takes a text as it is: leave it unset")

    @staticmethod
    def serves(objective):
        return isinstance(objective, TextObjective) and (objective.taught or objective.label_kind == CHOICES)

    def load(self, objective: TextObjective) -> Data:
        mended = Counter[str]()
        columns = self.text_column, self.choices_column, self.label_column

        def read(patterns: Sequence[str]) -> list[ChoiceQuestion]:
            found = (choice_questions(file, *columns, mended, objective.labelled) for file in expand(patterns))
            rows = [row for of_file in found for row in of_file]
            check_any(rows, patterns)
            return rows

        rows = self.with_held_out(read(self.files), read, objective, lambda row: str(row[:2]), "question")
        name = f"choices {' '.join(self.files)}"
        return make_choice_data(self, name, *rows, objective, self.delimiter, mended)
