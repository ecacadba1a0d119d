"""Windows in which the perplexity of a text is measured: the text is tokenized as a whole, and no token counts twice.

(Hugging Face's guide "Perplexity of fixed-length models"; GPTQ, Frantar et al. 2023, section 4, without overlap.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from qtx.data.dataset import Data
from qtx.data.labelled import made_example
from qtx.data.notes import copies, described, noted
from qtx.data.objectives import MakeExample, TextObjective
from qtx.data.objectives.sequence_classification import PADDING, padded
from qtx.data.text import TokenizedOptions, texts_digest
from qtx.data.tokenization import TextTokenizer
from qtx.foundation.errors import QtxError

OF_WINDOW = 3
"""Numbers of a window behind its tokens: the position of the first token that counts, and the UTF-8 bytes and the words
of the text that the tokens that count stand for."""
WORD = re.compile(r"\S+")


class Cut(NamedTuple):
    """A `Cut` says how a text becomes windows.

    Attributes:
      length: T, tokens of a window.
      stride: tokens from the beginning of one window to that of the next.
      begun: whether every window begins with the tokenizer's first token, instead of the whole text.
      joint: the text between two documents.
    """

    length: int
    stride: int
    begun: bool
    joint: str


def make_windowed_data(
    options: TokenizedOptions,
    name: str,
    training: Sequence[str],
    held_out: Sequence[str],
    objective: TextObjective,
    cut: Cut,
    mended: Mapping[str, int],
) -> Data:
    """Joins the documents of each split to one text, which is tokenized and cut into windows in its order.

    Args:
      options: of the source.
      name, mended: see `qtx.data.labelled.LabelledTextOptions.make_labelled_data`.
      training, held_out: the documents.
      objective: what the examples are made for; one that is taught takes the tokens alone.
      cut: how the texts are cut.

    Raises:
      QtxError: if no token of a text can be predicted.
    """
    tokenizer = options.make_tokenizer(training, objective)
    blocks = {
        split: _blocks(cut.joint.join(texts), tokenizer, cut, f"{name}: the {split} text")
        for split, texts in (("training", training), ("held-out", held_out))
    }
    begun = ", each begun by the tokenizer's first token" if cut.begun else ""
    return Data(
        description=described(
            f"{name}: {len(blocks['training']):,} training and {len(blocks['held-out']):,} held-out windows of "
            f"{cut.length} tokens at a stride of {cut.stride}{begun}, documents joined by {cut.joint!r}, vocabulary "
            f"{tokenizer.vocab_size:,}",
            noted({**mended, **copies(training, (text for text in held_out if text.strip()))}),
        ),
        training=blocks["training"],
        held_out=blocks["held-out"],
        example=_example(objective, tokenizer),
        vocab_size=tokenizer.vocab_size,
        sequence_length=cut.length,
        tokenizer=tokenizer,
        digests={"training": texts_digest(training), "held_out": texts_digest(held_out)},
    )


def spans(count: int, length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yields for each window over `count` tokens where it begins and ends, and where the tokens begin that no window
    before it has; the last window ends with the text, and may be shorter than `length`."""
    done = 0
    for begin in range(0, count, stride):
        end = min(begin + length, count)
        yield begin, end, done
        done = end
        if end == count:
            return


def _blocks(text: str, tokenizer: TextTokenizer, cut: Cut, what: str) -> np.ndarray:
    """Returns int32 `[N, T + OF_WINDOW]`: the ids of each window, padded, and the numbers behind them."""
    ((ids, offsets),) = tokenizer.encode_with_offsets([text], what)
    size, words = _until(text, offsets)
    start = np.array([tokenizer.start] if cut.begun else [], np.int32)
    if not cut.begun:
        before, after = (np.array(x, np.int32) for x in (tokenizer.template.before, tokenizer.template.after))
        ids = np.concatenate([before, ids, after])
        size, words = (np.pad(x, (len(before), len(after)), "edge") for x in (size, words))
        size[: len(before) + 1] = words[: len(before) + 1] = 0
    blocks = []
    for begin, end, done in spans(len(ids), cut.length - len(start), cut.stride):
        first = max(done, begin + 1 - len(start))  # nothing predicts the first token of a window
        if first >= end:
            continue
        block = np.full(cut.length + OF_WINDOW, PADDING, np.int32)
        block[: end - begin + len(start)] = np.concatenate([start, ids[begin:end]])
        block[cut.length :] = len(start) + first - begin, size[end] - size[first], words[end] - words[first]
        blocks.append(block)
    if not blocks:
        raise QtxError(f"{what} has {len(ids)} tokens, of which none can be predicted: expected a longer text")
    return np.stack(blocks)


def _until(text: str, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns how many UTF-8 bytes of a text, and how many words, which white space separates, begin before the end of
    each token, after a 0, int `[n + 1]`; the last token has the rest of the text."""
    ends = np.maximum.accumulate(np.concatenate([[0], offsets[:, 1]]))
    ends[-1] = len(text) if len(offsets) else 0
    letters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = 1 + (letters > 0x7F).astype(np.int64) + (letters > 0x7FF) + (letters > 0xFFFF)
    size = np.concatenate([[0], np.cumsum(widths)])[ends]
    return size, np.searchsorted([match.start() for match in WORD.finditer(text)], ends)


def _example(objective: TextObjective, tokenizer: TextTokenizer) -> MakeExample:
    if objective.taught:
        of_tokens = made_example(objective, tokenizer)
        return lambda block, rng: of_tokens(block[:-OF_WINDOW], rng)

    def windowed(block, rng):
        tokens, mask = padded(block[:-OF_WINDOW], tokenizer.pad)
        first, size, words = block[-OF_WINDOW:]
        predicted = 1 + np.arange(len(tokens))
        return {
            "tokens": tokens,
            "mask": mask,
            "labels": np.append(tokens[1:], np.int32(tokenizer.pad)),
            "weights": ((first <= predicted) & (predicted < mask.sum())).astype(np.float32),
            "bytes": size,
            "words": words,
        }

    return windowed
