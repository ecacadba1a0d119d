"""Scores by blocks of queries and of keys: which there are, what of one another they see, and what becomes of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qtx.attention.normalizers import Rows, SoftmaxLike
from qtx.layers import kept_of_numbers

LOWEST = float(jnp.finfo(jnp.float32).min)
"""The score of a key that is not seen; half of it is below every other."""


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How the work is cut.

    Attributes:
      queries, keys: the most of one block.
      examples, heads: of so many at a time, divisors of B and H, so that a block stays in a core's cache; None: of all,
        which fills an accelerator, and is split over devices as they are.
      skips: whether a block whose finished probabilities are all 0 is left out of the products.
      spans: of a causal mask, so many runs of queries, each with the keys up to its last query alone.
    """

    queries: int
    keys: int
    examples: int | None = None
    heads: int | None = None
    skips: bool = False
    spans: int = 1


class Context(NamedTuple):
    """What has none: the rows, with `seen` if something is finished; the key of the dropout, or None; and the number of
    each head among all heads of all examples, `[B, H]`, by which it draws its own."""

    rows: Rows
    dropout_key: jax.Array | None
    numbers: jax.Array


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What is computed, apart from arrays.

    Attributes:
      normalizer: whose hooks it calls.
      blocks: see there.
      dropout: rate on the finished probabilities.
    """

    normalizer: SoftmaxLike
    blocks: Blocks
    dropout: float = 0.0

    @property
    def finishes(self) -> bool:
        """Whether probabilities are more than the softmax."""
        return type(self.normalizer).finish is not SoftmaxLike.finish


def sum_dtype(x: jax.Array) -> jnp.dtype:
    """The dtype of what is summed."""
    return jnp.promote_types(x.dtype, jnp.float32)


class Cut(NamedTuple):
    """T, cut into blocks of equal size, the last of which may reach beyond it."""

    length: int
    size: int
    number: int

    @classmethod
    def of(cls, length: int, most: int) -> Cut:
        number = math.ceil(length / most)
        # A multiple of 8, for vectors and tiles, unless it is all of T.
        size = length if number == 1 else 8 * math.ceil(length / number / 8)
        return cls(length, size, math.ceil(length / size))

    def padded(self, x: jax.Array) -> jax.Array:
        """`[B, H, T, ...]`, with zeros beyond T."""
        more = self.size * self.number - x.shape[2]
        return jnp.pad(x, [(0, more if axis == 2 else 0) for axis in range(x.ndim)]) if more else x

    def block(self, x: jax.Array, index: Any, axis: int = 2) -> jax.Array:
        """One block of what is padded along an axis."""
        return x if self.number == 1 else jax.lax.dynamic_slice_in_dim(x, index * self.size, self.size, axis)


class Tiles(NamedTuple):
    """The blocks of queries and of keys, and what of one another they see; the first query is at position `first`."""

    kernel: Kernel
    context: Context
    first: int
    queries: Cut
    keys: Cut

    @classmethod
    def of(cls, kernel: Kernel, context: Context, first: int, queries: int, keys: int) -> Tiles:
        return cls(kernel, context, first, Cut.of(queries, kernel.blocks.queries), Cut.of(keys, kernel.blocks.keys))

    @property
    def whole_rows(self) -> bool:
        """Whether a block has all the keys, so that one sweep does."""
        return self.keys.number == 1

    def position(self, i: Any) -> Any:
        """Of the first query of a block."""
        return self.first + i * self.queries.size

    def keys_of(self, i: Any) -> tuple[Any, Any]:
        """The blocks of keys, from and up to, that a block of queries may see."""
        mask, first = self.context.rows.mask, self.position(i)
        low: Any = 0
        high: Any = self.keys.number
        if self.whole_rows:
            return low, high
        if mask.causal:
            high = jnp.minimum((first + self.queries.size - 1) // self.keys.size + 1, high)
        if mask.window is not None:
            low = jnp.maximum(first - mask.window + 1, 0) // self.keys.size
            high = jnp.minimum((first + self.queries.size - 2 + mask.window) // self.keys.size + 1, high)
        return low, high

    def queries_of(self, j: Any) -> tuple[Any, Any]:
        """The blocks of queries, from and up to, that may see a block of keys."""
        mask, first = self.context.rows.mask, j * self.keys.size - self.first
        low: Any = 0
        high: Any = self.queries.number
        if self.whole_rows:
            return low, high
        if mask.window is not None:
            low = jnp.maximum(first - mask.window + 1, 0) // self.queries.size
            high = jnp.minimum((first + self.keys.size - 2 + mask.window) // self.queries.size + 1, high)
        if mask.causal:
            low = jnp.maximum(first, 0) // self.queries.size
        return low, high

    def scores(self, query: jax.Array, key: jax.Array, i: Any, j: Any) -> jax.Array:
        """`[B, H, queries, keys]`; LOWEST where a key is not seen."""
        scores = jnp.einsum("bhtd,bhsd->bhts", query, key, preferred_element_type=sum_dtype(query))
        mask, ragged = self.context.rows.mask, self.keys.size * self.keys.number > self.keys.length
        visible = mask.block(self.position(i), self.queries.size, j * self.keys.size, self.keys.size, ragged)
        return scores if visible is None else jnp.where(visible, scores, LOWEST)

    def finish(self, parameters: Mapping[str, jax.Array], probs: jax.Array, i: Any) -> jax.Array:
        """The normalizer's, of a block of queries."""
        rows = self.context.rows
        if rows.seen is not None:
            rows = rows._replace(seen=self.queries.block(self.queries.padded(rows.seen), i))
        return self.kernel.normalizer.finish(parameters, probs, rows)

    def unless_dead(
        self, finish: Callable[..., Any], probs: jax.Array, function: Any, otherwise: Any, *rest: Any
    ) -> Any:
        """function(probs, *rest), or, where every one of the finished probabilities is 0 and has no slope,
        otherwise(probs, *rest)."""
        if not self.kernel.finishes or not self.kernel.blocks.skips:
            return function(probs, *rest)
        finished, slope = jax.jvp(finish, (probs,), (jnp.ones_like(probs),))
        return jax.lax.cond(jnp.any((finished != 0) | (slope != 0)), function, otherwise, probs, *rest)

    def kept(self, like: jax.Array, i: Any, j: Any) -> jax.Array | None:
        """What dropout multiplies probabilities by: 0, or one over the rate that is kept; None: there is no dropout. It
        depends on the head, the query and the key, and not on the blocks."""
        if not self.kernel.dropout:
            return None
        key = self.context.dropout_key
        assert key is not None, "dropout needs a key"

        def places(first, axis):
            own = jax.lax.broadcasted_iota(jnp.uint32, like.shape[2:], axis)
            return own + jnp.asarray(first).astype(jnp.uint32)

        # Of more than 2^16 tokens some share a number; their draws are those of keys far apart.
        stride = jnp.uint32(self.context.rows.mask.length)
        number = places(self.position(i), 0) * stride + places(j * self.keys.size, 1)

        def of_head(head):
            own_key = jax.random.fold_in(key, head)
            kept, share = kept_of_numbers(own_key, self.kernel.dropout, number)
            return jnp.where(kept, jnp.asarray(1 / share, like.dtype), 0)

        return jax.vmap(jax.vmap(of_head))(self.context.numbers)
