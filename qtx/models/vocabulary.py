"""The product with the vocabulary, or its factors instead: the logits of a long batch are the largest array, and the
loss can be computed without ever holding them all (`qtx.losses.vocabulary`)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.layers import dense_product
from qtx.sites import watched

LOGITS = "logits"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Factors:
    """The factors of logits that are not multiplied yet: hidden . table^T + bias.

    Attributes:
      hidden: the hidden states `[..., D]`.
      table: the embedding table `[vocab, D]`, float32.
      bias: `[vocab]`, or None.
      precision: the product's, as `jax.default_matmul_precision` was where the model would have multiplied.
    """

    hidden: jax.Array
    table: jax.Array
    bias: jax.Array | None
    precision: str | None = dataclasses.field(default=None, metadata={"static": True})

    def logits(self) -> jax.Array:
        """Computes the logits, float32 `[..., vocab]`."""
        table = self.table.T.astype(self.hidden.dtype)
        with multiplied_at(self.precision):
            logits = dense_product(self.hidden, table, preferred_element_type=jnp.float32)
        return logits if self.bias is None else logits + self.bias


def precision() -> str | None:
    """Returns the current default precision of matrix products."""
    return jax.config.values["jax_default_matmul_precision"]


def multiplied_at(precision: str | None) -> contextlib.AbstractContextManager[None]:
    """Makes `precision` the default of matrix products within the context; None leaves the default as it is."""
    return contextlib.nullcontext() if precision is None else jax.default_matmul_precision(precision)


class VocabularyProduct(nn.Module):
    """The product that makes a head's site `logits`, float32 `[..., vocab]`, which are the model's output. A head that
    changes them multiplies by the table itself (`qtx.layers.dense_product`)."""

    def __call__(self, hidden: jax.Array, table: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        return Factors(hidden, table, bias).logits()


@contextlib.contextmanager
def factored() -> Iterator[None]:
    """Makes a model, within the context, return `Factors` for its logits, unless something reads or changes the site
    `logits` beside its `VocabularyProduct`."""

    def interceptor(next_function, args, kwargs, context):
        head = context.module.parent
        if not isinstance(context.module, VocabularyProduct) or watched(head, LOGITS):
            return next_function(*args, **kwargs)
        return Factors(args[0], args[1], args[2] if len(args) > 2 else None, precision())

    with nn.intercept_methods(interceptor):
        yield
