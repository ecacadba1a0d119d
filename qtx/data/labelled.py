"""The common part of sources of labelled text: their options, and the making of `Data` from texts with labels."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from qtx.data.classes import Numbering, in_order, in_words, lacking
from qtx.data.dataset import Data
from qtx.data.notes import copies, described, noted
from qtx.data.objectives import NumbersOfTexts, TextObjective
from qtx.data.objectives.sequence_classification import PADDING, padded
from qtx.data.tables import LabelledText
from qtx.data.text import TokenizedOptions, prompted, texts_digest
from qtx.data.tokenization import TextTokenizer
from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError

ENCODED_AT_ONCE = 4096
"""Number of texts: the tokenizer's output for each takes many times the memory of its ids."""


@dataclass(frozen=True)
class LabelledTextOptions(TokenizedOptions):
    """Options of every source of labelled text; the objective `distill` takes only the texts."""

    @staticmethod
    def serves(objective):
        return isinstance(objective, TextObjective) and (objective.labelled or objective.taught)

    def make_labelled_data(
        self,
        name: str,
        training: Sequence[LabelledText],
        held_out: Sequence[LabelledText],
        objective: TextObjective,
        classes: Sequence[str] | None = None,
        mended: Mapping[str, int] = MappingProxyType({}),
    ) -> Data:
        """Tokenizes both splits: an example is a text within the tokenizer's template, cut or padded to
        `sequence_length`.

        Args:
          name: the source's name, for the description.
          training: the training texts; a tokenizer is trained on these alone.
          held_out: the texts for evaluation, which are put in the order of their hashes, so that any number of the
            first ones is a fair sample, whatever their labels.
          objective: what the examples are made for.
          classes: the labels in the order of their numbers, or the names of a text's numbers; None: those of the
            training texts (`in_order`).
          mended: counts of what was mended when the texts were read, for the description; see `qtx.data.notes`.

        Raises:
          QtxError: for fewer than two classes, or a label that is none of them.
        """
        length = self.sequence_length
        held_out = sorted(held_out, key=lambda row: _rank(row.text))
        tokenizer = self.make_tokenizer([row.text for row in training], objective)
        splits = {"training": training, "held-out": held_out}
        told, names, numbers = "", None, dict[str, np.ndarray]()
        if isinstance(objective, NumbersOfTexts):
            labels = {split: [row.label for row in rows] for split, rows in splits.items()}
            names, numbers = objective.numbered(labels, classes)
            objective, told = objective.with_outputs(len(names)), f"outputs {in_words(names)}, "
        blocks = {
            split: self._blocks(rows, objective.block_length(length), tokenizer, f"{name}: the {split} text")
            for split, rows in splits.items()
        }
        for split, of_texts in numbers.items():
            blocks[split][:, length:] = of_texts
        if objective.labelled and not numbers:
            names = in_order(row.label for row in training) if classes is None else tuple(classes)
            for split, rows in splits.items():
                blocks[split][:, -1] = _numbers(rows, names, split)
            there = {int(number) for split in blocks.values() for number in split[:, -1]}
            told = f"classes {in_words(names)}{lacking(names, there)}, "
        example = objective.example(tokenizer, 0)

        def without_padding(block: np.ndarray, rng: np.random.Generator) -> Batch:
            tokens, mask = padded(block, tokenizer.pad)
            return {**example(tokens, rng), "mask": mask}

        return Data(
            description=described(
                f"{name}: {len(training):,} training and {len(held_out):,} held-out texts, {told}cut to {length} "
                f"tokens, vocabulary {tokenizer.vocab_size:,}",
                noted({**mended, **copies((row.text for row in training), (row.text for row in held_out))}),
            ),
            training=blocks["training"],
            held_out=blocks["held-out"],
            example=prompted(example if objective.labelled else without_padding, tokenizer, length),
            vocab_size=tokenizer.vocab_size,
            sequence_length=length,
            classes=names,
            tokenizer=tokenizer,
            digests={
                "training": texts_digest(list(itertools.chain(*training))),
                "held_out": texts_digest(list(itertools.chain(*held_out))),
            },
        )

    def _blocks(
        self, rows: Sequence[LabelledText], block_length: int, tokenizer: TextTokenizer, what: str
    ) -> np.ndarray:
        """Returns int32 `[N, block_length]`, a block for each text: its ids within the template, then `PADDING`; the
        caller puts the label behind `sequence_length`."""
        blocks = np.full((len(rows), block_length), PADDING, np.int32)
        for first in range(0, len(rows), ENCODED_AT_ONCE):
            texts = [tokenizer.prompt + row.text for row in rows[first : first + ENCODED_AT_ONCE]]
            for block, ids in zip(blocks[first:], tokenizer.encode(texts, what), strict=False):
                whole, _ = tokenizer.template.around([ids], self.sequence_length, tokenizer.from_left)
                block[: len(whole)] = whole
        return blocks


def _numbers(rows: Sequence[LabelledText], classes: Sequence[str], split: str) -> list[int]:
    if len(classes) < 2:
        raise QtxError(f"there is only one class, {', '.join(classes)}: expected texts with at least two labels")
    numbering = Numbering(classes)
    return [numbering.number(row.label, f"the {split} texts") for row in rows]


def _rank(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
