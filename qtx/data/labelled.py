"""What every source of labelled text shares: its options, and texts with labels to `Data`."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qtx.data.dataset import Data
from qtx.data.objectives import NumbersOfTexts, TextObjective, text_objective
from qtx.data.objectives.sequence_classification import real_tokens
from qtx.data.splitting import split_by_name
from qtx.data.tables import LabelledText
from qtx.data.text import TokenizedOptions, texts_digest
from qtx.data.tokenization import TextTokenizer
from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError

ENCODED_AT_ONCE = 4096
"""Texts: what the tokenizer says of each takes many times the memory of its ids."""


@dataclass(frozen=True)
class LabelledTextOptions(TokenizedOptions):
    """Options of every source of labelled text; the objective `distill` takes its texts alone."""

    @staticmethod
    def serves(objective):
        return isinstance(objective, TextObjective) and (objective.labelled or objective.taught)

    def make_labelled_data(
        self,
        name: str,
        training: Sequence[LabelledText],
        held_out: Sequence[LabelledText],
        objective: str,
        classes: Sequence[str] | None = None,
    ) -> Data:
        """Tokenizes both splits: an example is a text between the start and the end token, cut or padded to
        `sequence_length`.

        Args:
          name: the source's name, for the description.
          training: a tokenizer is trained on these alone.
          held_out: the texts for evaluation, which are put in an order that says nothing of their labels, so that any
            number of them is a fair sample.
          objective: the name of a `TextObjective`.
          classes: the labels in the order of their numbers, or the names of a text's numbers; None: those of the
            training texts, sorted.

        Raises:
          QtxError: for fewer than two classes, or a label that is none of them.
        """
        chosen, length = text_objective(objective), self.sequence_length
        held_out = sorted(held_out, key=lambda row: _rank(row.text))
        tokenizer = self.make_tokenizer([row.text for row in training], objective)
        splits = {"training": training, "held-out": held_out}
        told, names, numbers = "", None, dict[str, np.ndarray]()
        if isinstance(chosen, NumbersOfTexts):
            labels = {split: [row.label for row in rows] for split, rows in splits.items()}
            names, numbers = chosen.numbered(labels, classes)
            chosen, told = chosen.with_outputs(len(names)), f"outputs {', '.join(names[:10])}, "
        blocks = {split: self._blocks(rows, chosen.block_length(length), tokenizer) for split, rows in splits.items()}
        for split, of_texts in numbers.items():
            blocks[split][:, length:] = of_texts
        if chosen.labelled and not numbers:
            names = tuple(sorted({row.label for row in training})) if classes is None else tuple(classes)
            for split, rows in splits.items():
                blocks[split][:, -1] = _numbers(rows, names, split)
            told = f"classes {', '.join(names[:10])}, "
        example = chosen.example(tokenizer, 0)

        def without_padding(block: np.ndarray, rng: np.random.Generator) -> Batch:
            return {**example(block, rng), "mask": real_tokens(block, tokenizer.end)}

        return Data(
            description=(
                f"{name}: {len(training):,} training and {len(held_out):,} held-out texts, {told}cut to {length} "
                f"tokens, vocabulary {tokenizer.vocab_size:,}"
            ),
            training=blocks["training"],
            held_out=blocks["held-out"],
            example=example if chosen.labelled else without_padding,
            vocab_size=tokenizer.vocab_size,
            sequence_length=length,
            classes=names,
            tokenizer=tokenizer,
            digests={
                "training": texts_digest(list(itertools.chain(*training))),
                "held_out": texts_digest(list(itertools.chain(*held_out))),
            },
        )

    def _blocks(self, rows: Sequence[LabelledText], block_length: int, tokenizer: TextTokenizer) -> np.ndarray:
        """A block int32 `[block_length]` of each text: start, ids, end, padding; what is beyond `sequence_length` is
        left to the label."""
        blocks = np.full((len(rows), block_length), tokenizer.pad, np.int32)
        blocks[:, 0] = tokenizer.start
        for first in range(0, len(rows), ENCODED_AT_ONCE):
            texts = [row.text for row in rows[first : first + ENCODED_AT_ONCE]]
            for block, ids in zip(blocks[first:], tokenizer.encode(texts), strict=False):
                kept = ids[: self.sequence_length - 2]
                block[1 : 1 + len(kept)] = kept
                block[1 + len(kept)] = tokenizer.end
        return blocks


def split_labelled(
    rows: Sequence[LabelledText], fraction: float, remedy: str
) -> tuple[list[LabelledText], list[LabelledText]]:
    """Training and held-out texts, split by `held_out_names` of the texts: copies stay on one side.

    Raises:
      QtxError: with `remedy` when there is only one text, which cannot be split.
    """
    return split_by_name(rows, [row.text for row in rows], fraction, "text", remedy)


def _numbers(rows: Sequence[LabelledText], classes: Sequence[str], split: str) -> list[int]:
    numbers = {name: number for number, name in enumerate(classes)}
    if len(numbers) < 2:
        raise QtxError(f"there is only one class, {', '.join(classes)}: expected texts with at least two labels")
    unknown = next((row.label for row in rows if row.label not in numbers), None)
    if unknown is not None:
        raise QtxError(
            f"label {unknown[:50]!r} of the {split} texts is none of the classes {', '.join(classes[:10])}: expected "
            "those of the training texts, or of data.classes"
        )
    return [numbers[row.label] for row in rows]


def _rank(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
