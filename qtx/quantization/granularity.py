"""Granularity: which values of a tensor share one range.

A granularity turns an estimator, which knows one stream of numbers, into ranges `()` or `[D]` that broadcast along a
tensor's last axis. A new one is a class here and a line in `GRANULARITIES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from qtx.foundation.errors import QtxError


def observe(estimator: Any, state: Any, x: jax.Array, bits: Any, symmetric: bool, where: Any = None) -> Any:
    """`estimator.update`, but NaN from the first value on that is not finite: a percentile or a search would pass over
    it, and a range that is finite would hide it."""
    finite = jnp.isfinite(x).all(where=None if where is None else jnp.broadcast_to(where, x.shape))
    finite &= jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]).all()
    new = estimator.update(state, x, bits, symmetric, where)
    return jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.nan), new)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One range for the whole tensor."""

    def init(self, estimator: Any, features: int) -> Any:
        return estimator.init()

    def update(self, estimator: Any, state: Any, x: jax.Array, bits: Any, symmetric: bool, where: Any = None) -> Any:
        return observe(estimator, state, x, bits, symmetric, where)

    def result(self, estimator: Any, state: Any) -> tuple[jax.Array, jax.Array]:
        return estimator.result(state)


@dataclasses.dataclass(frozen=True)
class Channel:
    """One range for each index of the last axis: a weight's output channels, an activation's dimensions.

    Raises:
      QtxError: for a vector, whose every value would be a channel of its own.
    """

    def init(self, estimator: Any, features: int) -> Any:
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (features, *jnp.shape(x))), estimator.init())

    def update(self, estimator: Any, state: Any, x: jax.Array, bits: Any, symmetric: bool, where: Any = None) -> Any:
        if x.ndim < 2:
            raise QtxError(f"granularity 'channel' on a vector of {x.size} values: quantize vectors per tensor")
        by_channel = jnp.moveaxis(x, -1, 0)
        if where is not None:
            where = jnp.moveaxis(jnp.broadcast_to(where, x.shape), -1, 0)

        def update(state, x, where):
            return observe(estimator, state, x, bits, symmetric, where)

        return jax.vmap(update, (0, 0, None if where is None else 0))(state, by_channel, where)

    def result(self, estimator: Any, state: Any) -> tuple[jax.Array, jax.Array]:
        return jax.vmap(estimator.result)(state)


@dataclasses.dataclass(frozen=True)
class Group(Channel):
    """Per-embedding-group quantization, PEG (Bondarenko et al. 2021, section 4): the last axis's dimensions, sorted by
    the width of their ranges, in groups of equal size with one range each. The few dimensions that hold outliers share
    a coarse grid and leave the fine ones to the rest.

    Attributes:
      num_groups: K; divides the last axis.

    Raises:
      QtxError: if it does not.
    """

    num_groups: int = 4

    def __post_init__(self):
        if self.num_groups < 1:
            raise QtxError(f"groups is {self.num_groups}: expected at least 1")

    def init(self, estimator: Any, features: int) -> Any:
        if features % self.num_groups:
            raise QtxError(f"groups {self.num_groups} does not divide a last axis of {features}: choose a divisor")
        return super().init(estimator, features)

    def result(self, estimator: Any, state: Any) -> tuple[jax.Array, jax.Array]:
        minimum, maximum = super().result(estimator, state)
        order = jnp.argsort(maximum - minimum)
        back = jnp.argsort(order)
        size = minimum.size // self.num_groups

        def shared(ends: jax.Array, reduce: Any) -> jax.Array:
            return jnp.repeat(reduce(ends[order].reshape(self.num_groups, size), axis=1), size)[back]

        return shared(minimum, jnp.min), shared(maximum, jnp.max)


@dataclasses.dataclass(frozen=True)
class Token:
    """Dynamic: every row of the last axis is quantized to its own extremes, found as it is computed; nothing is
    calibrated. For activations only."""

    def ends(self, x: jax.Array, where: Any = None) -> tuple[jax.Array, jax.Array]:
        """The ranges `[..., 1]` of the rows of `x` `[..., D]`; a row without any position of `where` gets [0, 0]."""
        minimum = jnp.min(x, axis=-1, keepdims=True, where=where, initial=0.0)
        return minimum, jnp.max(x, axis=-1, keepdims=True, where=where, initial=0.0)


GRANULARITIES: dict[str, Callable[..., Any]] = {"tensor": Tensor, "channel": Channel, "group": Group, "token": Token}
