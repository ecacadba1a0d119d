"""This module computes the embeddings of texts as sentence-transformers does with the model's checkpoint."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from qtx.analysis.capture import FloatingPoint
from qtx.data.prompts import with_prompt
from qtx.data.tokenization import TextTokenizer
from qtx.data.tokenizer_settings import longest_text
from qtx.families.in_words import embedding_in_words
from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError
from qtx.interop.carried import MODULES
from qtx.interop.sentence import read_modules
from qtx.masks import token_mask
from qtx.models.pooling import embedding_of
from qtx.pipeline.lineage import original_of
from qtx.pipeline.run import TrainedRun
from qtx.quantization import Quantized

ROWS = 32
SHORTEST = 16


def encode(
    run: TrainedRun, model: FloatingPoint | Quantized, texts: Sequence[str], prompt: str | None = None
) -> np.ndarray:
    """Returns the embeddings of texts, float32 `[N, D]`: those of the checkpoint that the run was imported from, with
    its prompt, pooling, dense layers and normalization. A text that is too long for the checkpoint is cut, as
    sentence-transformers does.

    Args:
      run: the run.
      model: the run's model, in floating point or quantized.
      texts: the texts.
      prompt: the name of the prompt that is put before every text; None: the checkpoint's default, if it has one.

    Raises:
      QtxError: if the model makes no embeddings of texts, or ends in a module that qtx does not compute; or if there is
        no such prompt.
    """
    config, tokenizer = run.assembled.experiment.model, run.assembled.data.tokenizer
    if not embedding_in_words(config) or tokenizer is None:
        has = f"its head is {config.head}" if hasattr(config, "head") else "it predicts tokens"
        raise QtxError(f"the model makes no embeddings of texts: {has}; load a sentence encoder to encode texts")
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise QtxError("expected a list of texts to encode")
    original, longest = original_of(run.assembled.experiment, run.workdir), config.max_length
    if original is not None:
        left_out = read_modules(original).left_out if (original / MODULES).is_file() else ()
        if left_out:
            raise QtxError(f"the checkpoint's embeddings go through {', '.join(left_out)}, which qtx does not compute")
        told = longest_text(original)
        longest = longest if told is None else min(longest, told[0])
    if prompt is not None:
        if original is None:
            raise QtxError(f"prompt is {prompt!r}, but the model has no prompts: leave it out")
        tokenizer = with_prompt(tokenizer, original, prompt)
    ids = tokenizer.encode([tokenizer.prompt + text for text in texts or [""]], "the text")
    cut = [tokenizer.template.around([one], longest, tokenizer.from_left)[0] for one in ids]
    order = np.argsort([len(one) for one in cut], kind="stable")
    found = [
        np.asarray(_embedded(config, model, batch)) for batch in _batches([cut[i] for i in order], tokenizer, longest)
    ]
    return np.concatenate(found)[np.argsort(order)][: len(texts)]


def _batches(ids: Sequence[np.ndarray], tokenizer: TextTokenizer, longest: int) -> Iterator[Batch]:
    """Yields batches of few shapes, for each is compiled; the last is filled up by its first text."""
    rows = min(ROWS, 1 << (len(ids) - 1).bit_length())
    for first in range(0, len(ids), rows):
        some = ids[first : first + rows]
        length = min(longest, max(SHORTEST, 1 << (len(some[-1]) - 1).bit_length()))
        tokens, mask = np.full((rows, length), tokenizer.pad, np.int32), np.zeros((rows, length), bool)
        for row in range(rows):
            one = some[row if row < len(some) else 0]
            tokens[row, : len(one)], mask[row, : len(one)] = one, True
        prompt = {"prompt": np.full(rows, tokenizer.prompt_length(longest), np.int32)} if tokenizer.prompt else {}
        yield {"tokens": tokens, "mask": mask, **prompt}


@functools.partial(jax.jit, static_argnums=0)
def _embedded(config: Any, model: FloatingPoint | Quantized, batch: Batch) -> jax.Array:
    output = model.apply(batch)
    real = batch["mask"] if output.ndim == 2 else token_mask(batch, output.shape[1], config)
    return embedding_of(output, real, batch, config)
