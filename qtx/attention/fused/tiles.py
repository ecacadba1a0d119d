"""Blocks of queries and of keys: which there are, which see each other, and their scores and probabilities."""

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
"""The score of a key that is not seen; even half of it is below every other score."""


@dataclasses.dataclass(frozen=True)
class Blocks:
    """`Blocks` says how the work is cut.

    Attributes:
      queries, keys: the most queries and keys of one block.
      examples, heads: how many are computed at a time, divisors of B and H, so that a block stays in a core's cache;
        None: all, which fills an accelerator, and is split over devices as the arrays are.
      skips: whether a block whose finished probabilities are all 0 is left out of the products.
      spans: how many runs of queries a causal mask is cut into, each with only the keys up to its last query.
    """

    queries: int
    keys: int
    examples: int | None = None
    heads: int | None = None
    skips: bool = False
    spans: int = 1


class NoGradient(NamedTuple):
    """The inputs without a gradient: the rows, with `seen` if the normalizer finishes; the key of the dropout, or None;
    and the number of each head among all heads of all examples, `[B, H]`, from which the head draws its own dropout."""

    rows: Rows
    dropout_key: jax.Array | None
    numbers: jax.Array


@dataclasses.dataclass(frozen=True)
class FusedSpec:
    """A `FusedSpec` says what is computed, apart from arrays.

    Attributes:
      normalizer: the normalizer, whose hooks are called.
      blocks: how the work is cut.
      dropout: the rate on the finished probabilities.
    """

    normalizer: SoftmaxLike
    blocks: Blocks
    dropout: float = 0.0

    @property
    def finishes(self) -> bool:
        """Says whether the normalizer changes the softmax's probabilities."""
        return type(self.normalizer).finish is not SoftmaxLike.finish


def sum_dtype(x: jax.Array) -> jnp.dtype:
    """Returns the dtype in which arrays like `x` are summed."""
    return jnp.promote_types(x.dtype, jnp.float32)


class Blocking(NamedTuple):
    """T positions, cut into blocks of equal size, the last of which may reach beyond T."""

    length: int
    size: int
    number: int

    @classmethod
    def of(cls, length: int, most: int) -> Blocking:
        number = math.ceil(length / most)
        # A block's size is a multiple of 8, for vectors and tiles, unless it is all of T.
        size = length if number == 1 else 8 * math.ceil(length / number / 8)
        return cls(length, size, math.ceil(length / size))

    def padded(self, x: jax.Array) -> jax.Array:
        """Pads `[B, H, T, ...]` with zeros beyond T."""
        more = self.size * self.number - x.shape[2]
        return jnp.pad(x, [(0, more if axis == 2 else 0) for axis in range(x.ndim)]) if more else x

    def block(self, x: jax.Array, index: Any, axis: int = 2) -> jax.Array:
        """Returns one block of an array that is padded along an axis."""
        return x if self.number == 1 else jax.lax.dynamic_slice_in_dim(x, index * self.size, self.size, axis)


class Tiles(NamedTuple):
    """The blocks of queries and of keys, and which of them see each other; the first query is at position `first`."""

    spec: FusedSpec
    context: NoGradient
    first: int
    queries: Blocking
    keys: Blocking

    @classmethod
    def of(cls, spec: FusedSpec, context: NoGradient, first: int, queries: int, keys: int) -> Tiles:
        return cls(spec, context, first, Blocking.of(queries, spec.blocks.queries), Blocking.of(keys, spec.blocks.keys))

    @property
    def whole_rows(self) -> bool:
        """Says whether a block has all the keys, so that one sweep is enough."""
        return self.keys.number == 1

    def position(self, i: Any) -> Any:
        """Returns the position of the first query of block `i`."""
        return self.first + i * self.queries.size

    def keys_of(self, i: Any) -> tuple[Any, Any]:
        """Returns the first block of keys that block `i` of queries may see, and the one after the last."""
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
        """Returns the first block of queries that may see block `j` of keys, and the one after the last."""
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
        """Computes scores `[B, H, queries, keys]`, LOWEST where a key is not seen."""
        scores = jnp.einsum("bhtd,bhsd->bhts", query, key, preferred_element_type=sum_dtype(query))
        mask, ragged = self.context.rows.mask, self.keys.size * self.keys.number > self.keys.length
        visible = mask.block(self.position(i), self.queries.size, j * self.keys.size, self.keys.size, ragged)
        return scores if visible is None else jnp.where(visible, scores, LOWEST)

    def finish(self, parameters: Mapping[str, jax.Array], probs: jax.Array, i: Any) -> jax.Array:
        """Applies the normalizer's `finish` to a block of queries."""
        rows = self.context.rows
        if rows.seen is not None:
            rows = rows._replace(seen=self.queries.block(self.queries.padded(rows.seen), i))
        return self.spec.normalizer.finish(parameters, probs, rows)

    def unless_dead(
        self, finish: Callable[..., Any], probs: jax.Array, function: Any, otherwise: Any, *rest: Any
    ) -> Any:
        """Returns function(probs, *rest), or otherwise(probs, *rest) if every finished probability is 0 and has no
        slope, and blocks may be skipped."""
        if not self.spec.finishes or not self.spec.blocks.skips:
            return function(probs, *rest)
        finished, slope = jax.jvp(finish, (probs,), (jnp.ones_like(probs),))
        return jax.lax.cond(jnp.any((finished != 0) | (slope != 0)), function, otherwise, probs, *rest)

    def kept(self, like: jax.Array, i: Any, j: Any) -> jax.Array | None:
        """Returns what dropout multiplies probabilities by: 0, or one over the share that is kept; None: there is no
        dropout. The draws depend on the head, the query and the key, and not on the blocks."""
        if not self.spec.dropout:
            return None
        key = self.context.dropout_key
        assert key is not None, "dropout needs a key"

        def places(first, axis):
            own = jax.lax.broadcasted_iota(jnp.uint32, like.shape[2:], axis)
            return own + jnp.asarray(first).astype(jnp.uint32)

        # With more than 2^16 tokens some pairs, of keys far apart, share a number and so a draw.
        stride = jnp.uint32(self.context.rows.mask.queries)
        number = places(self.position(i), 0) * stride + places(j * self.keys.size, 1)

        def of_head(head):
            own_key = jax.random.fold_in(key, head)
            kept, share = kept_of_numbers(own_key, self.spec.dropout, number)
            return jnp.where(kept, jnp.asarray(1 / share, like.dtype), 0)

        return jax.vmap(jax.vmap(of_head))(self.context.numbers)
