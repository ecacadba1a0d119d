"""Packing: documents of token ids become blocks of one length."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from qtx.foundation.errors import QtxError


def pack(documents: Iterable[np.ndarray], start: int, end: int, block_length: int, what: str) -> np.ndarray:
    """Concatenates documents, each followed by `end`, and cuts the stream into blocks that each begin with `start`.

    Every token of the stream is in exactly one block, but for a last piece shorter than a block, which is left out.

    Args:
      documents: token ids of each document, int32 [n_i], without special tokens; empty documents are skipped.
      start: id of the token before every block, e.g. [CLS]: a position without information where heads can rest.
      end: id of the token after every document, e.g. [SEP].
      block_length: tokens per block, `start` included.
      what: which text this is, for the error, e.g. `"training"`.

    Returns:
      int32 [N, block_length].

    Raises:
      QtxError: when the stream is shorter than one block.
    """
    stream = join(documents, end)
    blocks, _ = cut_blocks(stream, start, block_length)
    if not len(blocks):
        raise QtxError(too_short(what, len(stream), block_length))
    return blocks


def join(documents: Iterable[np.ndarray], end: int) -> np.ndarray:
    """Joins documents to one stream int32 [n], each followed by `end`; empty documents are skipped."""
    boundary = np.array([end], np.int32)
    parts = [part for document in documents if len(document) for part in (document, boundary)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def cut_blocks(stream: np.ndarray, start: int, block_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts as many blocks int32 [N, block_length] as a stream fills, each begun by `start`; returns the rest, too."""
    content = block_length - 1
    count = len(stream) // content
    blocks = np.full((count, block_length), start, np.int32)
    blocks[:, 1:] = stream[: count * content].reshape(count, content)
    return blocks, stream[count * content :]


def too_short(what: str, tokens: int, block_length: int) -> str:
    """Words the error for a text that does not fill a block."""
    return (
        f"the {what} text has {tokens} tokens, fewer than one block of {block_length - 1}: give more text or lower "
        "data.sequence_length"
    )


def document_segments(block: np.ndarray, end: int, ends_document: bool) -> np.ndarray:
    """Returns the number of the document in a block that each token belongs to, from 0, int32 [T].

    Args:
      block: int32 [T]; the start token at position 0 belongs to the first document.
      end: id of the token between documents.
      ends_document: whether that token belongs to the document before it, as BERT's [SEP] does, or to the one after it,
        as OPT's </s>, from which the first token of a document is predicted.
    """
    boundary = block == end
    boundary[0] = False
    return np.cumsum(boundary, dtype=np.int32) - (boundary if ends_document else np.int32(0))
