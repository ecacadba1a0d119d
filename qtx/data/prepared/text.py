"""Tokenized and packed text as a TFDS dataset: one record is one block."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from qtx.data.notes import WORDS
from qtx.data.packing import cut_blocks, join, too_short
from qtx.data.prepared.documents import Part
from qtx.data.prepared.writing import DatasetLayout, Example, Producer, State
from qtx.data.tfds_datasets import Dataset, DatasetRecords
from qtx.data.tokenization import TextTokenizer
from qtx.foundation.errors import QtxError

NAME = "qtx_text"
FORMAT = 1
"""Version of the blocks, to be raised when the same input would give other ones."""
BATCH_CHARACTERS = 1 << 20
"""Characters of text tokenized at once; one document may be longer."""


def text_layout(parts: Mapping[str, Part], tokenizer: TextTokenizer, block_length: int, data_dir: str) -> DatasetLayout:
    """Plans the dataset of one corpus.

    Args:
      parts: split name to the documents of the split.
      tokenizer: gives the ids and the token between documents.
      block_length: L, ids per block with the start token.
      data_dir: folder of all datasets.

    Returns:
      a plan whose records have `tokens`, [L], uint16 where the vocabulary fits, otherwise int32.
    """
    import tensorflow_datasets as tfds

    facts = {
        "format": FORMAT,
        "parts": {split: part.fingerprint for split, part in parts.items()},
        "tokenizer": hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest(),
        **_told_beside(tokenizer),
        "block_length": block_length,
    }
    if beside := [other.fingerprint for part in parts.values() for other in part.beside]:
        facts["beside"] = beside
    corpus = next(iter(parts.values())).documents
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32)
    tokens = tfds.features.Tensor(shape=(block_length,), dtype=dtype, encoding="bytes")
    return DatasetLayout(
        name=NAME,
        key=hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16],
        features=lambda: tfds.features.FeaturesDict({"tokens": tokens}),
        splits={
            split: Producer(partial(_blocks, part, split, tokenizer, block_length, dtype), part.documents.count)
            for split, part in parts.items()
        },
        description=f"{corpus.name}: blocks of {block_length} tokens, vocabulary {tokenizer.vocab_size}",
        data_dir=data_dir,
        note=corpus.left_out and f"of {corpus.name} {corpus.left_out}",
    )


def _told_beside(tokenizer: TextTokenizer) -> dict[str, Any]:
    """Returns what decides a tokenizer's blocks besides its `tokenizer.json`; nothing if it was trained here."""
    if tokenizer.backend.post_processor is None:
        return {}
    split = tokenizer.backend.encode_special_tokens
    return {"ends": [tokenizer.start, tokenizer.end, split, tokenizer.lower], "vocab_size": tokenizer.vocab_size}


def _blocks(
    part: Part, split: str, tokenizer: TextTokenizer, block_length: int, dtype: np.dtype, state: State | None
) -> Iterator[tuple[list[Example], State]]:
    state = state or {"read": 0, "documents": 0, "tokens": 0, "blocks": 0, "rest": []}
    counts = Counter({name: state.get(name, 0) for name in WORDS})
    for texts in _batches(part.documents.read(state["read"], counts)):
        selected = part.chosen(texts, counts)
        encoded = [ids for ids in tokenizer.encode(selected, f"{part.documents.name}: the {split} text") if len(ids)]
        new = join(encoded, tokenizer.end)
        stream = np.concatenate([np.array(state["rest"], np.int32), new])
        blocks, rest = cut_blocks(stream, tokenizer.start, block_length)
        state = {
            "read": state["read"] + len(texts),
            "documents": state["documents"] + len(encoded),
            "tokens": state["tokens"] + len(new),
            "blocks": state["blocks"] + len(blocks),
            "rest": rest.tolist(),
            **counts,
        }
        yield [{"tokens": block} for block in blocks.astype(dtype)], state
    if not state["blocks"]:
        raise QtxError(f"{part.documents.name}: {too_short(split, state['tokens'], block_length)}")


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, characters = [], 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def block_records(dataset: Dataset, split: str) -> DatasetRecords:
    """Returns the blocks of a split, int32 [L] each."""
    return dataset.records(split, lambda example: example["tokens"].astype(np.int32))
