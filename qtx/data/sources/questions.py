"""Questions about texts in SQuAD's JSON, read into memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from qtx.data.asked import default_stride, make_asked_data
from qtx.data.dataset import Data
from qtx.data.label_values import ANSWERS
from qtx.data.labelled_files import LabelledFiles, check_any
from qtx.data.listing import expand
from qtx.data.objectives import TextObjective
from qtx.data.question_files import Question, questions
from qtx.foundation.limits import at_least


@dataclass(frozen=True)
class Questions(LabelledFiles):
    """Questions about texts that have their answers, in `.json` files as SQuAD's, 1.1 or 2.0, plain or compressed.
    Questions about one text are on one side of the split.

    Attributes:
      stride: tokens of a long text that a window shares with the one before; None: a third of `sequence_length`.
    """

    stride: Annotated[int | None, at_least(0)] = None

    named = "questions"
    formats = ".json"

    @staticmethod
    def serves(objective):
        return isinstance(objective, TextObjective) and (objective.taught or objective.label_kind == ANSWERS)

    def pairs(self, objective):
        return True

    def defaults(self, objective):
        return super().defaults(objective) | {"stride": default_stride(self.sequence_length)}

    def load(self, objective: TextObjective) -> Data:
        mended = Counter[str]()

        def read(patterns: Sequence[str]) -> list[Question]:
            rows = [row for file in expand(patterns) for row in questions(file, mended, objective.labelled)]
            check_any(rows, patterns)
            return rows

        rows = self.with_held_out(read(self.files), read, objective, lambda row: row.context, "text")
        name, stride = f"questions {' '.join(self.files)}", self.resolved(objective).stride
        assert stride is not None, "it is resolved"
        return make_asked_data(self, name, *rows, objective, stride, mended)
