"""What objectives share whose labels are numbers, as many of each text as the model has outputs."""

from __future__ import annotations

import abc
import dataclasses
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, Self

import numpy as np

from qtx.data.objectives.base import TextObjective
from qtx.data.objectives.sequence_classification import SequenceClassification
from qtx.foundation.errors import QtxError


@dataclasses.dataclass(frozen=True)
class NumbersOfTexts(TextObjective):
    """Tokens, mask `[T]`, labels `[K]`, float32, and weights `[]`; a source of labelled text makes the blocks, each of
    which is one text as of `SequenceClassification`, and last its numbers.

    Attributes:
      outputs: K.
    """

    outputs: int = 1

    lower_is_better = False
    built_in_sources = MappingProxyType({"tokens": "stdlib_labels"})
    labelled = True
    tokenizer = "wordpiece"
    in_block: ClassVar[str]
    """The type of the numbers, of 32 bits, as which the entries of a block are read."""

    def block_length(self, sequence_length):
        return sequence_length + self.outputs

    def example(self, tokenizer, predictions):
        of_text = SequenceClassification().example(tokenizer, predictions)

        def made(block, rng):
            with_one = block[: len(block) - self.outputs + 1]
            labels = np.ascontiguousarray(block[len(block) - self.outputs :]).view(self.in_block).astype(np.float32)
            return {**of_text(with_one, rng), "labels": labels}

        return made

    def with_outputs(self, number: int) -> Self:
        """The same, of so many numbers of each text."""
        return dataclasses.replace(self, outputs=number)

    def numbered(
        self, labels: Mapping[str, Sequence[str]], names: Sequence[str] | None
    ) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
        """The names of the outputs, and split to what ends its blocks, int32 `[N, K]`.

        Args:
          labels: split to texts as `qtx.data.label_values.label_text` makes them; the first is the training split.
          names: of the outputs; None: by the labels.

        Raises:
          QtxError: if the labels are not as many of each text, or as the names.
        """
        rows = {split: [json.loads(label) for label in of_split] for split, of_split in labels.items()}
        names, rows = self.named(rows, names)
        for split, of_split in rows.items():
            wrong = next((row for row in of_split if len(row) != len(names)), None)
            if wrong is not None:
                raise QtxError(
                    f"the {split} texts have a label of {len(wrong)} numbers, {str(wrong)[:50]}: expected "
                    f"{len(names)}, as of the first, or as data.classes names"
                )
        numbers = {split: np.array(of_split, self.in_block).view(np.int32) for split, of_split in rows.items()}
        return tuple(names), numbers

    @abc.abstractmethod
    def named(
        self, rows: dict[str, list], names: Sequence[str] | None
    ) -> tuple[Sequence[str], dict[str, list[list[float]]]]:
        """The names of the outputs, and the labels as numbers; arguments and errors as of `numbered`."""


def counted(rows: Mapping[str, list]) -> list[str]:
    """Names for the numbers of the first text, those that transformers gives by default."""
    return [f"LABEL_{i}" for i in range(len(next(iter(rows.values()))[0]))]
