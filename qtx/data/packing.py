"""Documents of token ids into blocks of one length, and a block into a training example."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from qtx.data.masking import Masking, mask_tokens
from qtx.errors import QtxError


def pack(documents: Iterable[np.ndarray], start: int, end: int, block_length: int, what: str) -> np.ndarray:
    """Concatenates documents, each followed by `end`, and cuts the stream into blocks that each begin with `start`.

    Every token of the stream is in exactly one block, but for a last piece shorter than a block, which is left out.

    Args:
      documents: int32 [n_i] token ids without special tokens; empty ones are skipped.
      start: id of the token before every block, e.g. [CLS]: a position without information where heads can rest.
      end: id of the token after every document, e.g. [SEP].
      block_length: tokens per block, `start` included.
      what: which text this is, for the error, e.g. `"training"`.

    Returns:
      int32 [N, block_length].

    Raises:
      QtxError: when the stream is shorter than one block.
    """
    boundary = np.array([end], np.int32)
    parts = [part for document in documents if len(document) for part in (document, boundary)]
    stream = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    content = block_length - 1
    count = len(stream) // content
    if count == 0:
        raise QtxError(
            f"the {what} text has {len(stream)} tokens, fewer than one block of {content}: give more text or lower "
            "data.sequence_length"
        )
    blocks = np.full((count, block_length), start, np.int32)
    blocks[:, 1:] = stream[: count * content].reshape(count, content)
    return blocks


def masked_example(block: np.ndarray, masking: Masking, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A masked-language-model example from a block int32 [T]: tokens, mask [T], positions, labels, weights [P]."""
    return {**mask_tokens(block, masking, rng), "mask": np.ones(len(block), bool)}


def causal_example(block: np.ndarray) -> dict[str, np.ndarray]:
    """A causal example from a block int32 [T + 1]: tokens, mask, labels, weights [T]; labels[t] follows tokens[t]."""
    length = len(block) - 1
    return {
        "tokens": block[:-1],
        "mask": np.ones(length, bool),
        "labels": block[1:],
        "weights": np.ones(length, np.float32),
    }
