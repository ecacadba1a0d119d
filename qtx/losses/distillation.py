"""The losses of models that learn from a teacher, or are measured by one: what is compared depends on the head."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from qtx.foundation.batch import Batch
from qtx.losses.base import Loss, Training
from qtx.losses.divergences import (
    DIVERGENCES,
    HIDDEN,
    LOGITS,
    SCORE,
    SOFTMAX,
    SPAN,
    cosine_similarity,
    counted_rows,
    layer_error,
    matched,
    relative_error,
)
from qtx.losses.moments import Moments, moments
from qtx.losses.sums import Sums
from qtx.models.pooling import embedding_of


class CosineSums(NamedTuple):
    """Sums over texts that are compared by their embeddings.

    Attributes:
      loss, weight: as in `Sums`.
      cosine: weighted cosines of the embeddings to the teacher's.
    """

    loss: Any
    weight: Any
    cosine: Any

    def metrics(self) -> dict[str, float]:
        """Returns the mean loss, the mean cosine as `fidelity`, both NaN for no texts, and predictions (the weight)."""
        means = [float(total) / float(self.weight) if self.weight else math.nan for total in (self.loss, self.cosine)]
        return {"loss": means[0], "fidelity": means[1], "predictions": float(self.weight)}


class EmbeddingSums(NamedTuple):
    """Sums that embeddings are measured by.

    Attributes:
      cosines: sums over single texts; the loss is the relative squared error of the hidden states.
      moments: the moments of all embeddings together.
    """

    cosines: CosineSums
    moments: Moments

    def plus(self, more: Self) -> Self:
        """Returns the sums with those of another batch added."""
        return type(self)(jax.tree.map(np.add, self.cosines, more.cosines), self.moments.plus(more.moments))

    def metrics(self) -> dict[str, float]:
        """Returns the metrics of `CosineSums`, and `centred_fidelity`. Embeddings may all be nearly the same vector: an
        output that says nothing then has a cosine near 1 to each of them, but none to what they differ by."""
        return {**self.cosines.metrics(), "centred_fidelity": self.moments.compared()[0]}


class LogitSums(NamedTuple):
    """Sums that logits are measured by.

    Attributes:
      weight: the sum of the examples' weights.
      moments: the moments of all predictions of all examples together.
    """

    weight: Any
    moments: Moments

    def plus(self, more: Self) -> Self:
        """Returns the sums with those of another batch added."""
        return type(self)(self.weight + more.weight, self.moments.plus(more.moments))

    def metrics(self) -> dict[str, float]:
        """Returns the centred logits' cosine as `fidelity`, the error divided by the teacher's variation as `loss`."""
        fidelity, loss = self.moments.compared()
        return {"loss": loss, "fidelity": fidelity, "predictions": float(self.weight)}


class ScoreSums(LogitSums):
    """`LogitSums` of scores, which may be of different sizes: each is compared by itself, and the mean is taken."""

    def metrics(self) -> dict[str, float]:
        fidelity, loss = self.moments.compared(one_by_one=True)
        return {"loss": loss, "fidelity": fidelity, "predictions": float(self.weight)}


class NextTokenSums(NamedTuple):
    """Sums that a decoder is measured by: its logits, and how well they predict the texts themselves.

    Attributes:
      logits: as for any head.
      nll: the sum of the negative log-likelihoods of the tokens that follow others, in nats.
      tokens: their number.
    """

    logits: LogitSums
    nll: Any
    tokens: Any

    def plus(self, more: Self) -> Self:
        """Returns the sums with those of another batch added."""
        return type(self)(self.logits.plus(more.logits), self.nll + more.nll, self.tokens + more.tokens)

    def metrics(self) -> dict[str, float]:
        """Returns the metrics of `LogitSums`, and the perplexity, exp(nll / tokens)."""
        mean = float(self.nll) / float(self.tokens) if self.tokens else math.nan
        return {**self.logits.metrics(), "perplexity": math.exp(mean) if mean < 700 else math.inf}


@dataclasses.dataclass(frozen=True)
class EmbeddingDistillation(Loss):
    """The loss of a model without a head: its layers' relative squared error; the embeddings' cosine is measured too.
    A model that computes the embedding itself, by dense layers after the pooling, learns it too.

    Attributes:
      config: the model's, which says which tokens are real, and how hidden states become an embedding
        (`qtx.models.pooling.embedding_of`); None: the batch alone tells, and the mean is taken.
    """

    config: Any = None

    window = CosineSums

    def sites(self, module, batch):
        return matched(module, batch)

    def __call__(self, output: jax.Array, batch: Batch, training: Training) -> CosineSums:
        error = layer_error(training.captured, batch, self)
        if output.ndim == 2:
            error += self._error(output, batch)
        return self._cosines(error, *self._embeddings(output, batch), batch)

    def measured(self, output: jax.Array, batch: Batch, shards: int) -> EmbeddingSums:
        """Returns the sums; the loss is the relative squared error of a text's last hidden states, over real tokens, or
        of the embedding, if this is the model's output."""
        found, target = self._embeddings(output, batch)
        weights = batch["weights"].astype(jnp.float32)
        sums = self._cosines(self._error(output, batch), found, target, batch)
        return EmbeddingSums(sums, moments(found, target, weights))

    def _error(self, output: jax.Array, batch: Batch) -> jax.Array:
        found, target = (x.astype(jnp.float32) for x in (output, batch[HIDDEN]))
        real = counted_rows(batch, output, self)
        return relative_error(found, target, real if output.ndim == 2 else real[..., None])

    def _embeddings(self, output: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        real = counted_rows(batch, output, self)
        found, target = (embedding_of(x, real, batch, self.config) for x in (output, batch[HIDDEN]))
        return found, target

    def _cosines(self, loss: jax.Array, found: jax.Array, target: jax.Array, batch: Batch) -> CosineSums:
        weights = batch["weights"].astype(jnp.float32)
        cosines = cosine_similarity(found, target)
        return CosineSums((weights * loss).sum(), weights.sum(), (weights * cosines).sum())


@dataclasses.dataclass(frozen=True)
class LogitDistillation(Loss):
    """The loss of a model with a head: the relative squared error of its layers' outputs plus its logits' divergence.

    Attributes:
      kind: what the logits mean, a name in `DIVERGENCES`, which says how they are compared.
      config: the model's, which says which tokens are real; None: the batch alone tells.
    """

    kind: str = SOFTMAX
    config: Any = None

    def sites(self, module, batch):
        return matched(module, batch)

    def __call__(self, output: jax.Array, batch: Batch, training: Training) -> Sums:
        divergence = DIVERGENCES[self.kind](output, batch, training.whole, counted_rows(batch, output, self))
        loss = layer_error(training.captured, batch, self) + divergence
        weights = batch["weights"].astype(jnp.float32)
        return Sums((weights * loss).sum(), weights.sum())

    def measured(self, output: jax.Array, batch: Batch, shards: int) -> LogitSums | NextTokenSums:
        """Returns the sums, those of a decoder with its perplexity. Softmax logits are also centred per prediction: a
        number added to all means nothing. Those of spans are centred over the real tokens, for each end."""
        weights = batch["weights"].astype(jnp.float32)
        x, t = (logits.astype(jnp.float32) for logits in (output, batch[LOGITS]))
        real = counted_rows(batch, t, self)
        if self.kind == SOFTMAX:
            x, t = (logits - logits.mean(axis=-1, keepdims=True) for logits in (x, t))
        if self.kind == SPAN:
            x, t = (_centred(logits, real) for logits in (x, t))
        rows = (real * weights[:, None]).reshape(-1)
        x, t = (logits.reshape(-1, logits.shape[-1]) for logits in (x, t))
        sums = (ScoreSums if self.kind == SCORE else LogitSums)(weights.sum(), moments(x, t, rows))
        if self.kind != SOFTMAX or not getattr(self.config, "causal", False) or output.ndim == 2:
            return sums
        return NextTokenSums(sums, *next_token_nll(output, batch["tokens"], real & (weights > 0)[:, None]))


def next_token_nll(logits: jax.Array, tokens: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the negative log-likelihood of the tokens that follow others, in nats, and their number, `[]`, float32.

    Args:
      logits: of the next tokens, `[B, T, vocab]`.
      tokens: `[B, T]`.
      real: `[B, T]`, False at tokens that do not count.
    """
    followed = real[:, :-1] & real[:, 1:]
    logits = logits[:, :-1].astype(jnp.float32)
    right = jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
    nll = jax.nn.logsumexp(logits, axis=-1) - right
    return jnp.where(followed, nll, 0.0).sum(), followed.sum(dtype=jnp.float32)


def _centred(logits: jax.Array, real: jax.Array) -> jax.Array:
    """Subtracts from logits `[B, T, D]` their means over the real tokens, `[B, T]`."""
    total = jnp.where(real[..., None], logits, 0.0).sum(axis=1, keepdims=True)
    return logits - total / jnp.maximum(real.sum(axis=1), 1)[:, None, None]
