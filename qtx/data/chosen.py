"""The making of `Data` from questions with choices: an example is a choice after its context."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from qtx.data.choice_files import ChoiceQuestion
from qtx.data.dataset import Data
from qtx.data.labelled import ENCODED_AT_ONCE, made_example, rank
from qtx.data.notes import copies, described, noted
from qtx.data.objectives import TextObjective
from qtx.data.objectives.sequence_classification import PADDING
from qtx.data.text import TokenizedOptions, texts_digest
from qtx.data.tokenization import TextTokenizer
from qtx.foundation.errors import QtxError
from qtx.losses.choices import Choices


def make_choice_data(
    options: TokenizedOptions,
    name: str,
    training: Sequence[ChoiceQuestion],
    held_out: Sequence[ChoiceQuestion],
    objective: TextObjective,
    delimiter: str,
    mended: Mapping[str, int],
) -> Data:
    """Tokenizes both splits: the training split has the right choices, the held-out one all choices of each question. A
    context that is too long loses its beginning.

    Args:
      options: of the source.
      name, mended: see `qtx.data.labelled.LabelledTextOptions.make_labelled_data`.
      training, held_out: the questions; the held-out ones are put in the order of their hashes.
      objective: what the examples are made for; one that is taught takes the texts of all choices alone.
      delimiter: the text between a context and a choice.

    Raises:
      QtxError: if a choice has no tokens, or more than `sequence_length`.
    """
    length = options.sequence_length
    held_out = sorted(held_out, key=lambda row: rank(json.dumps(row)))
    texts = [context + delimiter + choice for row in training for context, choice in zip(*row[:2], strict=True)]
    tokenizer = options.make_tokenizer(texts, objective)
    splits = {"training": training, "held-out": held_out}
    blocks = {}
    for split, rows in splits.items():
        kept = [*_pairs(rows, right_alone=split == "training" and objective.labelled)]
        ids = _encoded(kept, delimiter, tokenizer, length, f"{name}: the {split} text")
        blocks[split] = _blocks(ids, len(kept), objective, length)
    digests = {
        split.replace("-", "_"): texts_digest([json.dumps(row) for row in rows]) for split, rows in splits.items()
    }
    return Data(
        description=described(
            f"{name}: {len(training):,} training and {len(held_out):,} held-out questions, these with "
            f"{len(blocks['held-out']):,} choices, after {delimiter!r}, cut to {length} tokens, "
            f"vocabulary {tokenizer.vocab_size:,}",
            noted({**mended, **copies(training, held_out)}),
        ),
        training=blocks["training"],
        held_out=blocks["held-out"],
        example=made_example(objective, tokenizer),
        vocab_size=tokenizer.vocab_size,
        sequence_length=length,
        tokenizer=tokenizer,
        digests=digests,
        choices=_choices(held_out, digests["held_out"]),
    )


def _pairs(rows: Sequence[ChoiceQuestion], right_alone: bool) -> Iterator[tuple[str, str]]:
    """Yields the context and the text of every choice, or of the right ones."""
    for row in rows:
        for number, pair in enumerate(zip(row.contexts, row.choices, strict=True)):
            if not right_alone or number == row.right:
                yield pair


def _encoded(
    pairs: Sequence[tuple[str, str]], delimiter: str, tokenizer: TextTokenizer, length: int, what: str
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields for each context and choice at most `length` + 1 ids, and how many of them are the choice's: as many as
    both together have more than the context, as lm-evaluation-harness counts them (`_encode_pair`)."""
    start = np.array(tokenizer.template.before, np.int32)
    for at in range(0, len(pairs), ENCODED_AT_ONCE):
        some = pairs[at : at + ENCODED_AT_ONCE]
        # White space before a choice is the choice's: a tokenizer that knows words takes it as the word's beginning.
        contexts = tokenizer.encode([context.rstrip() for context, _ in some], what)
        wholes = tokenizer.encode([context + delimiter + choice for context, choice in some], what)
        for (_, choice), context, ids in zip(some, contexts, wholes, strict=True):
            count = len(ids) - len(context)
            if not 0 < count <= length:
                raise QtxError(
                    f"{what}: choice {choice[:50]!r} has {max(count, 0)} tokens: expected from 1 to sequence_length "
                    f"{length}; {'raise it' if count > 0 else 'take the question out'}"
                )
            # Something has to stand before the first token that is predicted.
            before = start if len(start) or len(context) else np.array([tokenizer.start], np.int32)
            yield np.concatenate([before, ids])[-length - 1 :], count


def _blocks(
    encoded: Iterator[tuple[np.ndarray, int]], number: int, objective: TextObjective, length: int
) -> np.ndarray:
    """Returns int32 `[N, L]`: the padded ids, and what an objective with labels needs."""
    blocks = np.full((number, objective.block_length(length)), PADDING, np.int32)
    for i, (block, (ids, count)) in enumerate(zip(blocks, encoded, strict=True)):
        if objective.labelled:
            block[: len(ids)] = ids
            block[-2:] = count, i
        else:
            block[: len(ids)] = ids[: len(block)]
    return blocks


def _choices(rows: Sequence[ChoiceQuestion], digest: str) -> Choices:
    questions = np.repeat(np.arange(len(rows)), [len(row.choices) for row in rows])
    return Choices(
        digest=digest,
        questions=questions,
        right=np.array([number == row.right for row in rows for number in range(len(row.choices))]),
        lengths=np.array([len(choice) for row in rows for choice in row.choices]),
    )
