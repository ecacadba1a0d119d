"""Cross entropy of the first and the last token of an answer, which is also measured as a text."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from qtx.foundation.batch import Batch
from qtx.losses.answers import Answers
from qtx.losses.base import Loss, Training
from qtx.losses.sums import Sums, weighted
from qtx.masks import token_mask

LONGEST = 30
"""Most tokens of an answer that a model gives, as in the examples of transformers."""
NOWHERE = -1e30
"""The logit of a position where an answer cannot begin or end."""


class Spans(NamedTuple):
    """The best answer of every window.

    Attributes:
      windows: the numbers of the windows, `[N]`.
      first, last: the positions of the best span's tokens, `[N]`.
      best, none: the score of that span, -inf if there is none, and the score of no answer, `[N]`.
      weights: `[N]`; 0 for padding.
    """

    windows: Any
    first: Any
    last: Any
    best: Any
    none: Any
    weights: Any


@functools.partial(jax.tree_util.register_dataclass, data_fields=["sums", "spans"], meta_fields=["answers"])
@dataclasses.dataclass(frozen=True)
class SpanSums:
    """The losses' `Sums`, and the best answer of every window, since a question may have several. `plus` appends, on
    the host.

    Attributes:
      sums: the sums over windows.
      spans: the answers of the windows.
      answers: the right answers.
    """

    sums: Sums
    spans: Spans
    answers: Answers

    def plus(self, more: Self) -> Self:
        """Returns the sums with those of another batch added, and its windows appended."""
        spans = Spans(*(np.concatenate(parts) for parts in zip(self.spans, more.spans, strict=True)))
        return dataclasses.replace(self, sums=jax.tree.map(np.add, self.sums, more.sums), spans=spans)

    def metrics(self) -> dict[str, float]:
        """Returns the mean loss, exact match and F1 of the questions (see `Answers.scores`), and the number of
        windows as predictions."""
        counted = np.asarray(self.spans.weights) > 0
        spans = Spans(*(np.asarray(x)[counted] for x in self.spans))
        scores = self.answers.scores(spans.windows, spans.first, spans.last, spans.best, spans.none)
        return {**self.sums.metrics(), **scores}


def best_spans(logits: jax.Array, context: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the first and the last position of the best span of at most `LONGEST` tokens within the `context`, and
    the sum of its two logits, each `[B]`; -inf if there is no context.

    Args:
      logits: `[B, T, 2]`, of an answer's first and last token.
      context: where an answer may be, `[B, T]`.
    """
    begins, ends = (jnp.where(context, logits[..., end], -jnp.inf) for end in (0, 1))
    length = context.shape[1]
    beyond = jnp.pad(ends, ((0, 0), (0, LONGEST)), constant_values=-jnp.inf)
    scores = jnp.stack([begins + beyond[:, d : d + length] for d in range(min(LONGEST, length))], axis=1)
    flat = scores.reshape(len(scores), -1)
    more, first = jnp.divmod(flat.argmax(axis=1), length)
    return first, first + more, flat.max(axis=1)


@dataclasses.dataclass(frozen=True)
class SpanCrossEntropy(Loss):
    """The cross entropy of logits `[B, T, 2]` and `labels` `[B, 2]`, the positions of an answer's first and last token,
    over the real tokens, as a mean over the two. A window without the answer has it at position 0.

    Attributes:
      answers: the right answers to held-out questions; None: there are none yet, and nothing is measured.
    """

    answers: Answers | None = None

    def __call__(self, output: jax.Array, batch: Batch, training: Training) -> Sums:
        real = token_mask({**batch, "weights": jnp.ones(len(output))}, output.shape[1])[..., None]
        logits = jnp.where(real, output.astype(jnp.float32), NOWHERE)
        of_label = jnp.take_along_axis(logits, batch["labels"][:, None, :], axis=1)[:, 0]
        smoothing = training.label_smoothing
        if smoothing:
            of_all = jnp.where(real, logits, 0.0).sum(axis=1) / real.sum(axis=1)
            of_label = (1 - smoothing) * of_label + smoothing * of_all
        losses = jax.nn.logsumexp(logits, axis=1) - of_label
        return weighted(losses.mean(axis=-1), batch["weights"])

    def measured(self, output: jax.Array, batch: Batch, shards: int) -> SpanSums:
        assert self.answers is not None, "the objective is made for its data"
        sums, logits = super().measured(output, batch, shards), output.astype(jnp.float32)
        first, last, best = best_spans(logits, batch["context"])
        none = logits[:, 0].sum(axis=-1)
        spans = Spans(batch["windows"], first, last, best, none, batch["weights"])
        return SpanSums(sums, spans, self.answers)
