"""Granularity: which values of a tensor share one range.

A granularity turns an estimator, which knows one stream of numbers, into ranges `()` or `[D]` that broadcast along a
tensor's last axis. A new one is a `Granularity` here and a line in `GRANULARITIES`.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from qtx.foundation.errors import QtxError
from qtx.quantization.estimators import Estimator


def observe(estimator: Estimator, state: Any, x: jax.Array, bits: Any, symmetric: bool, where: Any = None) -> Any:
    """Updates an estimator's state, to NaN from the first value on that is not finite: a percentile or a search would
    pass over such a value, and a finite range would hide it."""
    finite = jnp.isfinite(x).all(where=None if where is None else jnp.broadcast_to(where, x.shape))
    finite &= jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]).all()
    new = estimator.update(state, x, bits, symmetric, where)
    return jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.nan), new)


@dataclasses.dataclass(frozen=True)
class Granularity(abc.ABC):
    """A `Granularity` says which values of a tensor share one static range; a frozen dataclass of its options.

    A state is the estimator's state, with a leading `[D]` where every index of the last axis has a state of its own.

    Attributes:
      of_weights, of_activations: whether a config may choose the granularity for weights, for activations.
    """

    of_weights: ClassVar[bool] = True
    of_activations: ClassVar[bool] = True

    @abc.abstractmethod
    def init(self, estimator: Estimator, features: int) -> Any:
        """Returns the state before the first tensor.

        Args:
          estimator: estimates the ranges.
          features: D, the size of the last axis.

        Raises:
          QtxError: if the granularity cannot divide the last axis.
        """

    @abc.abstractmethod
    def update(
        self, estimator: Estimator, state: Any, x: jax.Array, bits: Any, symmetric: bool, where: Any = None
    ) -> Any:
        """Returns the state after one more tensor `x` `[..., D]`; other arguments as in `Estimator.update`."""

    @abc.abstractmethod
    def result(self, estimator: Estimator, state: Any) -> tuple[jax.Array, jax.Array]:
        """Returns (minimum, maximum), float32, each `()` or `[D]`."""


@dataclasses.dataclass(frozen=True)
class Tensor(Granularity):
    """One range for the whole tensor (Krishnamoorthi 2018, "per layer")."""

    def init(self, estimator, features):
        return estimator.init()

    def update(self, estimator, state, x, bits, symmetric, where=None):
        return observe(estimator, state, x, bits, symmetric, where)

    def result(self, estimator, state):
        return estimator.result(state)


@dataclasses.dataclass(frozen=True)
class Channel(Granularity):
    """One range for each index of the last axis: a weight's output channels (Krishnamoorthi 2018, "per channel"), an
    activation's dimensions.

    Raises:
      QtxError: for a vector, whose every value would be a channel of its own.
    """

    of_activations = False

    def init(self, estimator, features):
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (features, *jnp.shape(x))), estimator.init())

    def update(self, estimator, state, x, bits, symmetric, where=None):
        if x.ndim < 2:
            raise QtxError(f"granularity 'channel' on a vector of {x.size} values: quantize vectors per tensor")
        by_channel = jnp.moveaxis(x, -1, 0)
        if where is not None:
            where = jnp.moveaxis(jnp.broadcast_to(where, x.shape), -1, 0)

        def update(state, x, where):
            return observe(estimator, state, x, bits, symmetric, where)

        return jax.vmap(update, (0, 0, None if where is None else 0))(state, by_channel, where)

    def result(self, estimator, state):
        return jax.vmap(estimator.result)(state)


@dataclasses.dataclass(frozen=True)
class Group(Channel):
    """Per-embedding-group quantization, PEG (Bondarenko et al. 2021, section 4): the last axis's dimensions, sorted by
    the width of their ranges, in groups of equal size with one range each. The few dimensions that hold outliers share
    a coarse grid and leave the fine ones to the rest.

    Attributes:
      num_groups: K, the number of groups; divides the last axis.

    Raises:
      QtxError: if num_groups does not divide the last axis, or is below 1.
    """

    of_weights = False
    of_activations = True

    num_groups: int = 4

    def __post_init__(self):
        if self.num_groups < 1:
            raise QtxError(f"num_groups is {self.num_groups}: expected at least 1")

    def init(self, estimator, features):
        if features % self.num_groups:
            raise QtxError(f"num_groups {self.num_groups} does not divide a last axis of {features}: choose a divisor")
        return super().init(estimator, features)

    def result(self, estimator, state):
        minimum, maximum = super().result(estimator, state)
        order = jnp.argsort(maximum - minimum)
        back = jnp.argsort(order)
        size = minimum.size // self.num_groups

        def shared(ends: jax.Array, reduce: Any) -> jax.Array:
            return jnp.repeat(reduce(ends[order].reshape(self.num_groups, size), axis=1), size)[back]

        return shared(minimum, jnp.min), shared(maximum, jnp.max)


@dataclasses.dataclass(frozen=True)
class Token:
    """Dynamic ranges: every row of the last axis is quantized to its own extremes, found while the model runs; nothing
    is calibrated. For activations only (ZeroQuant, Yao et al. 2022, section 4.1)."""

    of_weights: ClassVar[bool] = False
    of_activations: ClassVar[bool] = True

    def ends(self, x: jax.Array, where: Any = None) -> tuple[jax.Array, jax.Array]:
        """Returns the ranges `[..., 1]` of the rows of `x` `[..., D]`; a row without values that count gets [0, 0]."""
        minimum = jnp.min(x, axis=-1, keepdims=True, where=where, initial=0.0)
        return minimum, jnp.max(x, axis=-1, keepdims=True, where=where, initial=0.0)


GRANULARITIES: dict[str, type[Granularity | Token]] = {
    "tensor": Tensor,
    "channel": Channel,
    "group": Group,
    "token": Token,
}
