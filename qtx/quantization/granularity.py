"""Granularity: which values of a tensor share one range.

A granularity turns an estimator, which knows one stream of numbers, into ranges that broadcast to a tensor by tiles
(`qtx.quantization.affine.tiled`): `()`, `[D]` along the last axis, or `[G, F]`, G groups of a kernel's rows. A new one
is a `Granularity` here and a line in `GRANULARITIES`.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from qtx.foundation.errors import QtxError
from qtx.foundation.limits import Checked, at_least
from qtx.quantization.estimators import Estimator


def observe(estimator: Estimator, state: Any, x: jax.Array, bits: Any, symmetric: bool, where: Any = None) -> Any:
    """Updates an estimator's state, to NaN from the first value on that is not finite: a percentile or a search would
    pass over such a value, and a finite range would hide it. With 0 bits, of a tensor in floating point, the range is
    that of 2 bits, for arithmetic's sake."""
    finite = jnp.isfinite(x).all(where=None if where is None else jnp.broadcast_to(where, x.shape))
    finite &= jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]).all()
    new = estimator.update(state, x, jnp.maximum(bits, 2), symmetric, where)
    return jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.nan), new)


@dataclasses.dataclass(frozen=True)
class Granularity(Checked, abc.ABC):
    """A `Granularity` says which values of a tensor share one static range; a frozen dataclass of its options.

    A state is the estimator's state, with leading axes of the shape of the ranges.

    Attributes:
      of_weights, of_activations: whether a config may choose the granularity for weights, for activations.
      axes: the number of axes that the ranges have.
    """

    of_weights: ClassVar[bool] = True
    of_activations: ClassVar[bool] = True
    axes: ClassVar[int]

    @abc.abstractmethod
    def ranges(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the ranges.

        Args:
          shape: of the tensor; of an activation, whose other axes differ from batch to batch, `(D,)`.

        Raises:
          QtxError: if the granularity cannot divide the tensor.
        """

    @abc.abstractmethod
    def split(self, x: jax.Array) -> jax.Array:
        """Returns the values of `x`, those of each range together: the first axes are those of the ranges."""

    def init(self, estimator: Estimator, shape: tuple[int, ...]) -> Any:
        """Returns the state before the first tensor; `shape` as in `ranges`."""
        ranges = self.ranges(shape)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (*ranges, *jnp.shape(x))), estimator.init())

    def update(
        self, estimator: Estimator, state: Any, x: jax.Array, bits: Any, symmetric: bool, where: Any = None
    ) -> Any:
        """Returns the state after one more tensor `x` `[..., D]`; other arguments as in `Estimator.update`."""
        if where is not None and self.axes:
            where = self.split(jnp.broadcast_to(where, x.shape))

        def update(state, x, where):
            return observe(estimator, state, x, bits, symmetric, where)

        return self._each(update)(state, self.split(x), where)

    def result(self, estimator: Estimator, state: Any) -> tuple[jax.Array, jax.Array]:
        """Returns (minimum, maximum), float32, each of the shape of the ranges."""
        return self._each(estimator.result)(state)

    def _each(self, function: Any) -> Any:
        """Maps a function over the axes of the ranges."""
        for _ in range(self.axes):
            function = jax.vmap(function)
        return function


@dataclasses.dataclass(frozen=True)
class Tensor(Granularity):
    """One range for the whole tensor (Krishnamoorthi 2018, "per layer")."""

    axes = 0

    def ranges(self, shape):
        return ()

    def split(self, x):
        return x


@dataclasses.dataclass(frozen=True)
class Channel(Granularity):
    """One range for each index of the last axis: a weight's output channels (Krishnamoorthi 2018, "per channel"), an
    activation's dimensions.

    Raises:
      QtxError: for a vector, whose every value would be a channel of its own.
    """

    of_activations = False
    axes = 1

    def ranges(self, shape):
        return shape[-1:]

    def split(self, x):
        if x.ndim < 2:
            raise QtxError(f"granularity 'channel' on a vector of {x.size} values: quantize vectors per tensor")
        return jnp.moveaxis(x, -1, 0)


@dataclasses.dataclass(frozen=True)
class InputGroup(Granularity):
    """One range for each output channel and group of neighbouring inputs: `size` rows of a kernel `[D, F]` by one
    column. The literature calls it g128 (AWQ, Lin et al. 2023; GPTQ, Frantar et al. 2022, section 5, "group size").

    Attributes:
      size: the number of rows in a group; divides D.

    Raises:
      QtxError: if size does not divide D, or for a tensor that is no kernel.
    """

    of_activations = False
    axes = 2

    size: Annotated[int, at_least(1, "e.g. 128")] = 128

    def ranges(self, shape):
        if len(shape) != 2:
            raise QtxError(
                f"granularity 'input_group' on a tensor of shape {shape}: only a kernel [D, F] has inputs; choose "
                "tensor or channel in its rule of the recipe"
            )
        if shape[0] % self.size:
            fits = next(size for size in range(min(self.size, shape[0]), 0, -1) if shape[0] % size == 0)
            raise QtxError(
                f"groups of {self.size} do not divide {shape[0]} inputs: choose a divisor, such as "
                f"input_group,size={fits}, or granularity channel"
            )
        return shape[0] // self.size, shape[1]

    def split(self, x):
        return jnp.swapaxes(x.reshape(*self.ranges(x.shape)[:1], self.size, -1), 1, 2)


@dataclasses.dataclass(frozen=True)
class Group(Channel):
    """Per-embedding-group quantization, PEG (Bondarenko et al. 2021, section 4): the last axis's dimensions, sorted by
    the width of their ranges, in groups of equal size with one range each. The few dimensions that hold outliers share
    a coarse grid and leave the fine ones to the rest.

    Attributes:
      num_groups: K, the number of groups; divides the last axis.

    Raises:
      QtxError: if num_groups does not divide the last axis.
    """

    of_weights = False
    of_activations = True

    num_groups: Annotated[int, at_least(1)] = 4

    def ranges(self, shape):
        if shape[-1] % self.num_groups:
            raise QtxError(f"num_groups {self.num_groups} does not divide a last axis of {shape[-1]}: choose a divisor")
        return super().ranges(shape)

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


@dataclasses.dataclass(frozen=True)
class TokenGroup(Token, Checked):
    """Dynamic ranges of a row's parts: each group of neighbouring dimensions has its own extremes, as every head of
    cached keys and values (KIVI, Liu et al. 2024; QuaRot, Ashkboos et al. 2024, section 4).

    Attributes:
      size: the number of dimensions in a group; divides D.

    Raises:
      QtxError: if size does not divide D.
    """

    size: Annotated[int, at_least(1, "e.g. 64")] = 128

    def ends(self, x, where=None):
        """Returns the ranges `[..., D / size]` of the rows of `x` `[..., D]`."""
        if x.shape[-1] % self.size:
            raise QtxError(f"groups of {self.size} do not divide a last axis of {x.shape[-1]}: choose a divisor")
        where = None if where is None else self._split(jnp.broadcast_to(where, x.shape))
        minimum, maximum = super().ends(self._split(x), where)
        return minimum[..., 0], maximum[..., 0]

    def _split(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], -1, self.size)


@dataclasses.dataclass(frozen=True)
class Call(Token):
    """Dynamic ranges, one of a whole tensor: that of all values that it holds at a call, those of other examples too.
    This is what ONNX's `DynamicQuantizeLinear` does."""

    def ends(self, x: jax.Array, where: Any = None) -> tuple[jax.Array, jax.Array]:
        """Returns the range of `x`, each end with as many axes as `x`, all of them 1."""
        minimum = jnp.min(x, keepdims=True, where=where, initial=0.0)
        return minimum, jnp.max(x, keepdims=True, where=where, initial=0.0)


GRANULARITIES: dict[str, type[Granularity | Token]] = {
    "tensor": Tensor,
    "channel": Channel,
    "input_group": InputGroup,
    "group": Group,
    "token": Token,
    "token_group": TokenGroup,
    "call": Call,
}
