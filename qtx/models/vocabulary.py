"""The product with the vocabulary, and its factors instead of it: of a long batch the logits are the largest array, and
the loss can be had without ever holding them all (`qtx.training.vocabulary_loss`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.layers import dense_product
from qtx.sites import watched

LOGITS = "logits"


class Factors(NamedTuple):
    """hidden . table^T + bias, not multiplied.

    Attributes:
      hidden: `[..., D]`.
      table: `[vocab, D]`, float32.
      bias: `[vocab]`, or None.
    """

    hidden: jax.Array
    table: jax.Array
    bias: jax.Array | None

    def logits(self) -> jax.Array:
        """Float32 `[..., vocab]`."""
        table = self.table.T.astype(self.hidden.dtype)
        logits = dense_product(self.hidden, table, preferred_element_type=jnp.float32)
        return logits if self.bias is None else logits + self.bias


class VocabularyProduct(nn.Module):
    """Float32 logits `[..., vocab]`, of a head whose site `logits` they are, and the model's output: one that changes
    them multiplies by the table itself (`qtx.layers.dense_product`)."""

    def __call__(self, hidden: jax.Array, table: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        return Factors(hidden, table, bias).logits()


@contextlib.contextmanager
def factored() -> Iterator[None]:
    """Within the context, a model returns `Factors` for its logits, unless something looks at the site `logits` beside
    its `VocabularyProduct`, or changes it."""

    def interceptor(next_function, args, kwargs, context):
        head = context.module.parent
        if not isinstance(context.module, VocabularyProduct) or watched(head, LOGITS):
            return next_function(*args, **kwargs)
        return Factors(args[0], args[1], args[2] if len(args) > 2 else None)

    with nn.intercept_methods(interceptor):
        yield
