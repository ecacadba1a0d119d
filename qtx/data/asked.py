"""The making of `Data` from questions about texts: long texts are read in windows that overlap."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from qtx.data.dataset import Data
from qtx.data.labelled import ENCODED_AT_ONCE, made_example, rank, with_types
from qtx.data.notes import copies, described, noted
from qtx.data.objectives import TextObjective
from qtx.data.objectives.sequence_classification import PADDING
from qtx.data.question_files import Question
from qtx.data.text import TokenizedOptions, texts_digest
from qtx.data.tokenization import TextTokenizer
from qtx.foundation.errors import QtxError
from qtx.losses.answers import Answers


def default_stride(sequence_length: int) -> int:
    """Returns the tokens that neighbouring windows share if nothing tells: 128 of 384, as in the examples of
    transformers."""
    return sequence_length // 3


def make_asked_data(
    options: TokenizedOptions,
    name: str,
    training: Sequence[Question],
    held_out: Sequence[Question],
    objective: TextObjective,
    stride: int,
    mended: Mapping[str, int],
) -> Data:
    """Tokenizes both splits: an example is a question and a window of its text within the tokenizer's template of two
    texts, padded to `sequence_length`; a text that is too long for one window has several.

    Args:
      options: of the source.
      name, mended: see `qtx.data.labelled.LabelledTextOptions.make_labelled_data`.
      training, held_out: the questions; the held-out ones are put in the order of their hashes.
      objective: what the examples are made for; one that is taught takes the texts alone.
      stride: tokens of the text that a window shares with the one before.

    Raises:
      QtxError: if a question leaves no room for its text.
    """
    length = options.sequence_length
    held_out = sorted(held_out, key=lambda row: rank("\t".join((row.question, row.context))))
    texts = dict.fromkeys(row.context for row in training)
    tokenizer = options.make_tokenizer([*texts, *(row.question for row in training)], objective)
    found = {
        split: [*_windows(rows, tokenizer, length, stride, f"{name}: the {split} text")]
        for split, rows in (("training", training), ("held-out", held_out))
    }
    blocks = {split: _blocks(windows, objective, length) for split, windows in found.items()}
    digests = {
        "training": texts_digest([json.dumps(row) for row in training]),
        "held_out": texts_digest([json.dumps(row) for row in held_out]),
    }
    pairs = ([(row.question, row.context) for row in rows] for rows in (training, held_out))
    counts = {split: len(windows) for split, windows in found.items()}
    return Data(
        description=described(
            f"{name}: {len(training):,} training and {len(held_out):,} held-out questions, in "
            f"{counts['training']:,} and {counts['held-out']:,} windows of {length} tokens, "
            f"vocabulary {tokenizer.vocab_size:,}",
            noted({**mended, **copies(*pairs)}),
        ),
        training=blocks["training"],
        held_out=blocks["held-out"],
        example=with_types(made_example(objective, tokenizer), length),
        vocab_size=tokenizer.vocab_size,
        sequence_length=length,
        token_types=tokenizer.template.token_types,
        tokenizer=tokenizer,
        digests=digests,
        answers=_answers(held_out, found["held-out"], tokenizer, digests["held_out"]),
    )


class _Window(NamedTuple):
    """A window: ids and token types, the question's number, the position of the first token of the text and the number
    of that token, how many there are, where they are in the text, and the answer's first and last position."""

    ids: np.ndarray
    types: np.ndarray
    question: int
    begin: int
    start: int
    size: int
    offsets: np.ndarray
    answer: tuple[int, int]


def _windows(
    rows: Sequence[Question], tokenizer: TextTokenizer, length: int, stride: int, what: str
) -> Iterator[_Window]:
    parts = tokenizer.template.pair
    specials = sum(part.token is not None for part in parts)
    before = sum(part.token is not None for part in parts[: [part.text for part in parts].index(1)])
    known: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for at in range(0, len(rows), ENCODED_AT_ONCE):
        some = rows[at : at + ENCODED_AT_ONCE]
        new = [text for text in dict.fromkeys(row.context for row in some) if text not in known]
        # Neighbouring questions are about the same text.
        known = {row.context: known[row.context] for row in some if row.context in known}
        known |= dict(zip(new, tokenizer.encode_with_offsets(new, what), strict=True))
        asked = tokenizer.encode([row.question for row in some], what)
        for number, (row, question) in enumerate(zip(some, asked, strict=True), at):
            ids, offsets = known[row.context]
            room = length - specials - len(question)
            if room <= stride:
                raise QtxError(
                    f"{what}: question {row.question[:50]!r} has {len(question)} tokens, which leave {max(room, 0)} of "
                    f"sequence_length {length} for its text: expected more than data.stride {stride}; raise "
                    "sequence_length, or lower the stride"
                )
            for start in range(0, max(len(ids) - stride, 1), room - stride):
                part = slice(start, start + room)
                whole, types = tokenizer.template.around([question, ids[part]], length)
                begin = before + len(question)
                answer = _answer(row, offsets[part], begin)
                yield _Window(whole, types, number, begin, start, len(ids[part]), offsets, answer)


def _answer(row: Question, offsets: np.ndarray, begin: int) -> tuple[int, int]:
    """Returns the positions of the first and last token of a question's first answer in a window whose text begins at
    `begin`; (0, 0) if the window does not have all of it."""
    if not row.answers or not len(offsets):
        return 0, 0
    first, last = row.starts[0], row.starts[0] + len(row.answers[0])
    if offsets[0, 0] > first or offsets[-1, 1] < last:
        return 0, 0
    return (
        begin + int(np.searchsorted(offsets[:, 0], first, "right")) - 1,
        begin + int(np.searchsorted(offsets[:, 1], last, "left")),
    )


def _blocks(windows: Sequence[_Window], objective: TextObjective, length: int) -> np.ndarray:
    """Returns int32 `[N, L]`: the ids of each window, as many token types, and what an objective with labels needs."""
    blocks = np.full((len(windows), length + objective.block_length(length)), PADDING, np.int32)
    for number, (block, window) in enumerate(zip(blocks, windows, strict=True)):
        block[: len(window.ids)] = window.ids
        block[length : length + len(window.types)] = window.types
        if objective.labelled:
            block[2 * length :] = (*window.answer, number, window.begin, window.size)
    return blocks


def _answers(rows: Sequence[Question], windows: Sequence[_Window], tokenizer: TextTokenizer, digest: str) -> Answers:
    places = np.array([(window.question, window.start - window.begin) for window in windows], np.int64)
    whole = hashlib.sha256(f"{digest} {tokenizer.digest} ".encode() + places.tobytes())
    return Answers(
        digest=whole.hexdigest(),
        optional=any(row.optional for row in rows),
        right=[row.answers or ("",) for row in rows],
        texts=[row.context for row in rows],
        offsets=list({window.question: window.offsets for window in windows}.values()),
        windows=places,
    )
