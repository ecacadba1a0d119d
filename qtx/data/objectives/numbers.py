"""The common part of objectives whose labels are numbers, as many for each text as the model has outputs."""

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
    """Prediction of numbers for each text: tokens, mask `[T]`, labels `[K]`, float32, and weights `[]`; a source of
    labelled text makes the blocks, each a text as for `SequenceClassification` and then its numbers.

    Attributes:
      outputs: K, numbers for each text.
    """

    outputs: int = 1

    lower_is_better = False
    built_in_sources = MappingProxyType({"tokens": "stdlib_labels"})
    labelled = True
    tokenizer = "wordpiece"
    in_block: ClassVar[str]
    """The numbers' type, of 32 bits: the int32 entries of a block hold the bits of these numbers."""

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
        """Returns the same objective with `number` outputs."""
        return dataclasses.replace(self, outputs=number)

    def numbered(
        self, labels: Mapping[str, Sequence[str]], names: Sequence[str] | None
    ) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
        """Returns the names of the outputs, and by split the numbers that end the blocks, int32 `[N, K]`.

        Args:
          labels: by split, labels as `qtx.data.label_values.label_text` makes them; the training split comes first.
          names: the names of the outputs; None: they follow from the labels.

        Raises:
          QtxError: if a text has not as many numbers as the outputs have names.
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
        """Returns the outputs' names, and the labels as numbers; arguments (parsed) and errors as of `numbered`."""


def counted(rows: Mapping[str, list]) -> list[str]:
    """Returns the names that transformers gives by default, one for each number of the first text."""
    return [f"LABEL_{i}" for i in range(len(next(iter(rows.values()))[0]))]
