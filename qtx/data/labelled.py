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
from qtx.data.label_values import OF_TEXTS
from qtx.data.notes import copies, described, noted
from qtx.data.objectives import MakeExample, NumbersOfTexts, TextObjective
from qtx.data.objectives.sequence_classification import PADDING, padded
from qtx.data.tables import LabelledPair, LabelledText
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
        return isinstance(objective, TextObjective) and (
            objective.taught or (objective.labelled and objective.label_kind in OF_TEXTS)
        )

    def make_labelled_data(
        self,
        name: str,
        training: Sequence[LabelledText | LabelledPair],
        held_out: Sequence[LabelledText | LabelledPair],
        objective: TextObjective,
        classes: Sequence[str] | None = None,
        mended: Mapping[str, int] = MappingProxyType({}),
    ) -> Data:
        """Tokenizes both splits: an example is a text, or a pair of texts, within the tokenizer's template, cut or
        padded to `sequence_length`. Of a pair it has the `token_types` too.

        Args:
          name: the source's name, for the description.
          training: the training texts, or pairs of texts; a tokenizer is trained on these alone.
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
        held_out = sorted(held_out, key=lambda row: rank("\t".join(row.texts)))
        tokenizer = self.make_tokenizer([text for row in training for text in row.texts], objective)
        paired = self.pairs(objective)
        labels_at = length * (1 + paired)
        splits = {"training": training, "held-out": held_out}
        told, names, numbers = "", None, dict[str, np.ndarray]()
        if isinstance(objective, NumbersOfTexts):
            labels = {split: [row.label for row in rows] for split, rows in splits.items()}
            names, numbers = objective.numbered(labels, classes)
            objective, told = objective.with_outputs(len(names)), f"outputs {in_words(names)}, "
        blocks = {
            split: self._blocks(
                rows, labels_at, objective.block_length(length) - length, tokenizer, f"{name}: the {split} text"
            )
            for split, rows in splits.items()
        }
        for split, of_texts in numbers.items():
            blocks[split][:, labels_at:] = of_texts
        if objective.labelled and not numbers:
            names = in_order(row.label for row in training) if classes is None else tuple(classes)
            for split, rows in splits.items():
                blocks[split][:, -1] = _numbers(rows, names, split)
            there = {int(number) for split in blocks.values() for number in split[:, -1]}
            told = f"classes {in_words(names)}{lacking(names, there)}, "
        example = made_example(objective, tokenizer)
        return Data(
            description=described(
                f"{name}: {len(training):,} training and {len(held_out):,} held-out {'pairs' if paired else 'texts'}, "
                f"{told}cut to {length} tokens, vocabulary {tokenizer.vocab_size:,}",
                noted({**mended, **copies((row.texts for row in training), (row.texts for row in held_out))}),
            ),
            training=blocks["training"],
            held_out=blocks["held-out"],
            example=prompted(with_types(example, length) if paired else example, tokenizer, length),
            vocab_size=tokenizer.vocab_size,
            sequence_length=length,
            token_types=tokenizer.template.token_types if paired else 1,
            classes=names,
            tokenizer=tokenizer,
            digests={
                "training": texts_digest(list(itertools.chain(*training))),
                "held_out": texts_digest(list(itertools.chain(*held_out))),
            },
        )

    def _blocks(
        self,
        rows: Sequence[LabelledText | LabelledPair],
        labels_at: int,
        of_label: int,
        tokenizer: TextTokenizer,
        what: str,
    ) -> np.ndarray:
        """Returns int32 `[N, labels_at + of_label]`, a block for each text or pair: its ids within the template, then
        `PADDING` up to `sequence_length`; of a pair then as many token types; last comes the label, from the caller."""
        length = self.sequence_length
        blocks = np.full((len(rows), labels_at + of_label), PADDING, np.int32)
        for first in range(0, len(rows), ENCODED_AT_ONCE):
            some = rows[first : first + ENCODED_AT_ONCE]
            # A prompt stands before what is asked: of a pair, before its first text.
            read = [text for row in some for text in (tokenizer.prompt + row.texts[0], *row.texts[1:])]
            encoded = iter(tokenizer.encode(read, what))
            for block, row in zip(blocks[first:], some, strict=False):
                texts = [next(encoded) for _ in row.texts]
                whole, types = tokenizer.template.around(texts, length, tokenizer.from_left)
                block[: len(whole)] = whole
                if len(texts) > 1:
                    block[length : length + len(whole)] = types
        return blocks


def _numbers(rows: Sequence[LabelledText | LabelledPair], classes: Sequence[str], split: str) -> list[int]:
    check_several(classes)
    numbering = Numbering(classes)
    return [numbering.number(row.label, f"the {split} texts") for row in rows]


def check_several(classes: Sequence[str]) -> None:
    """Raises QtxError unless there are two classes or more."""
    if len(classes) < 2:
        raise QtxError(f"there is only one class, {', '.join(classes)}: expected texts with at least two labels")


def made_example(objective: TextObjective, tokenizer: TextTokenizer) -> MakeExample:
    """Returns the function that makes an example of a block; of an objective without labels, whose blocks end with the
    padding of a text, the padding is masked."""
    example = objective.example(tokenizer, 0)

    def without_padding(block: np.ndarray, rng: np.random.Generator) -> Batch:
        tokens, mask = padded(block, tokenizer.pad)
        return {**example(tokens, rng), "mask": mask}

    return example if objective.labelled else without_padding


def with_types(example: MakeExample, length: int) -> MakeExample:
    """Returns the function that makes an example of a block that has `length` token types after as many tokens."""

    def made(block: np.ndarray, rng: np.random.Generator) -> Batch:
        tokens, types, rest = np.split(block, [length, 2 * length])
        return {**example(np.concatenate([tokens, rest]), rng), "token_types": np.maximum(types, 0)}

    return made


def rank(text: str) -> bytes:
    """Returns the hash by which held-out texts are ordered."""
    return hashlib.sha256(text.encode()).digest()
