"""The making of `Data` from sentences of words with a label each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from qtx.data.classes import Numbering, in_words, lacking
from qtx.data.dataset import Data
from qtx.data.labelled import ENCODED_AT_ONCE, check_several, made_example, rank
from qtx.data.notes import CUT, LOST, copies, described, noted
from qtx.data.objectives import TextObjective
from qtx.data.objectives.sequence_classification import PADDING
from qtx.data.tagged_files import TaggedWords, labels_of
from qtx.data.text import TokenizedOptions, texts_digest
from qtx.data.tokenization import TextTokenizer


def make_tagged_data(
    options: TokenizedOptions,
    name: str,
    training: Sequence[TaggedWords],
    held_out: Sequence[TaggedWords],
    objective: TextObjective,
    classes: Sequence[str],
    mended: Mapping[str, int],
) -> Data:
    """Tokenizes both splits, word by word: an example is a sentence within the tokenizer's template, cut or padded to
    `sequence_length`. Words that are cut off are counted in the description.

    Args:
      options: of the source.
      name, mended: see `qtx.data.labelled.LabelledTextOptions.make_labelled_data`.
      training, held_out: the sentences; the held-out ones are put in the order of their hashes.
      objective: what the examples are made for; one that is taught takes the words alone.
      classes: the labels in the order of their numbers.

    Raises:
      QtxError: for fewer than two classes, or a label that is none of them.
    """
    length, counts = options.sequence_length, Counter(mended)
    splits = {"training": training, "held-out": sorted(held_out, key=lambda row: rank(" ".join(row.words)))}
    tokenizer = options.make_tokenizer([" ".join(row.words) for row in training], objective)
    names, told = None, ""
    if objective.labelled:
        names = tuple(classes)
        check_several(names)
        numbering = Numbering(names)
        there = {numbering.number(x, "the sentences") for x in {*labels_of(training), *labels_of(held_out)}}
        told = f"classes {in_words(names)}{lacking(names, there)}, "
    blocks = {}
    for split, rows in splits.items():
        what = f"{name}: the {split} sentence"
        blocks[split] = np.full((len(rows), objective.block_length(length)), PADDING, np.int32)
        numbers = [[numbering.number(x, what) for x in row.labels] for row in rows] if objective.labelled else None
        _fill(blocks[split], [row.words for row in rows], numbers, length, tokenizer, what, counts)
    return Data(
        description=described(
            f"{name}: {len(training):,} training and {len(held_out):,} held-out sentences, {told}cut to {length} "
            f"tokens, vocabulary {tokenizer.vocab_size:,}",
            noted({**counts, **copies((row.words for row in training), (row.words for row in held_out))}),
        ),
        training=blocks["training"],
        held_out=blocks["held-out"],
        example=made_example(objective, tokenizer),
        vocab_size=tokenizer.vocab_size,
        sequence_length=length,
        classes=names,
        tokenizer=tokenizer,
        digests={
            "training": texts_digest([json.dumps(row) for row in training]),
            "held_out": texts_digest([json.dumps(row) for row in splits["held-out"]]),
        },
    )


def _fill(
    blocks: np.ndarray,
    sentences: Sequence[Sequence[str]],
    numbers: Sequence[Sequence[int]] | None,
    length: int,
    tokenizer: TextTokenizer,
    what: str,
    counts: Counter[str],
) -> None:
    """Puts each sentence's ids within the template into its block and, behind `length`, the numbers of its labels where
    words begin; counts the words that are not there."""
    before, after = len(tokenizer.template.before), len(tokenizer.template.after)
    for first in range(0, len(sentences), ENCODED_AT_ONCE):
        encoded = tokenizer.encode_words(sentences[first : first + ENCODED_AT_ONCE], what)
        for row, (ids, of_words) in enumerate(encoded, first):
            whole, _ = tokenizer.template.around([ids], length, tokenizer.from_left)
            blocks[row, : len(whole)] = whole
            kept = len(whole) - before - after
            part = slice(len(ids) - kept, None) if tokenizer.from_left else slice(kept)
            begins = np.diff(of_words, prepend=-1) > 0
            words = of_words[part][begins[part]]
            counts[CUT] += int(begins.sum()) - len(words)
            counts[LOST] += len(sentences[row]) - int(begins.sum())
            if numbers is not None:
                blocks[row, length + before + np.flatnonzero(begins[part])] = np.array(numbers[row], np.int32)[words]
