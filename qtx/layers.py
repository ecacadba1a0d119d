"""Building blocks that every model shares: products, and dense, embedding and norm layers with logical axes.

Logical axes name what a parameter's dimension means (`"embed"`, `"heads"`, `"mlp"`, `"vocab"`); `qtx.axes` maps them to
mesh axes. Biases and norms are small and have no logical axes: they are replicated.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from qtx.parts import Part

# Rematerialization policies know the outputs of dense layers by this name.
DENSE_OUTPUT = "dense_output"


class Product(nn.Module):
    """A `Product` multiplies two activations by `equation`, as `jnp.einsum` does, and by `scale`; it is a module, so
    that it can be run on integers.

    Attributes:
      equation: the subscripts of the product, e.g. `"bthd,bshd->bhts"`.
      dtype: the result's dtype.
      scale: a constant factor.
    """

    equation: str
    dtype: Any = None
    scale: float = 1.0

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        x = x if self.scale == 1.0 else x * self.scale
        return jnp.einsum(self.equation, x, y, preferred_element_type=self.dtype)


def dense_product(lhs, rhs, dimension_numbers=None, precision=None, preferred_element_type=None):
    """Multiplies `[..., D]` by `[D, F]`, as the `dot_general` of every dense layer and of the heads, whose
    `dimension_numbers` always mean this product. If the result is wider than the operands (float32 logits), tangents
    and gradients are computed in the operands' dtype."""
    product = _flat_product if jax.default_backend() == "cpu" else _product
    return checkpoint_name(product(lhs, rhs, precision, preferred_element_type), DENSE_OUTPUT)


def _dot(lhs: jax.Array, rhs: jax.Array, precision, dtype=None) -> jax.Array:
    return jax.lax.dot_general(lhs, rhs, (((lhs.ndim - 1,), (0,)), ((), ())), precision, dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _product(lhs: jax.Array, rhs: jax.Array, precision, dtype) -> jax.Array:
    return _dot(lhs, rhs, precision, dtype)


@_product.defjvp
def _product_jvp(precision, dtype, primals, tangents):
    (lhs, rhs), (of_lhs, of_rhs) = primals, tangents
    out = _product(lhs, rhs, precision, dtype)
    return out, (_dot(of_lhs, rhs, precision) + _dot(lhs, of_rhs, precision)).astype(out.dtype)


def _flat_product(lhs: jax.Array, rhs: jax.Array, precision, dtype) -> jax.Array:
    """Multiplies as one `[N, D] x [D, F]` product, whose backward pass XLA's CPU backend runs up to 2.7 times faster
    than that of the batched product. It has no forward-mode derivative."""
    return _rows_product(lhs.reshape(-1, lhs.shape[-1]), rhs, precision, dtype).reshape(*lhs.shape[:-1], rhs.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _rows_product(rows: jax.Array, kernel: jax.Array, precision, dtype) -> jax.Array:
    return jax.lax.dot(rows, kernel, precision=precision, preferred_element_type=dtype)


def _rows_forward(rows, kernel, precision, dtype):
    return _rows_product(rows, kernel, precision, dtype), (rows, kernel)


def _rows_backward(precision, dtype, saved, gradient):
    rows, kernel = saved
    # The gradient of float32 logits, too, is multiplied in the operands' dtype.
    gradient = gradient.astype(rows.dtype)

    def contract(a, b, axis):
        return jax.lax.dot_general(a, b, (((axis,), (axis,)), ((), ())), precision)

    of_rows = contract(gradient, kernel, 1).astype(rows.dtype)
    # XLA's CPU backend takes up to 1.5 times as long for a product with more rows than columns as for its transpose,
    # and without the barrier would rewrite one into the other.
    if kernel.shape[0] > kernel.shape[1]:
        of_kernel = jax.lax.optimization_barrier(contract(gradient, rows, 0)).T
    else:
        of_kernel = jax.lax.optimization_barrier(contract(rows, gradient, 0))
    return of_rows, of_kernel.astype(kernel.dtype)


_rows_product.defvjp(_rows_forward, _rows_backward)


class Dense(nn.Dense):
    """A dense layer that declares what it computes (`qtx.parts.Part`)."""

    part: Part = Part.OTHER


class LayerNorm(nn.LayerNorm):
    """A LayerNorm that declares what it computes."""

    part: Part = Part.NORM


class RMSNorm(nn.RMSNorm):
    """An RMSNorm that declares what it computes.

    Attributes:
      offset: a constant that the scale is beside: x / rms(x) * (offset + scale), with a scale that starts at 1 - offset
        (Gemma's norms: 1).
    """

    part: Part = Part.NORM
    offset: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        scale = self.param("scale", nn.initializers.constant(1 - self.offset), x.shape[-1:], self.param_dtype)
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + self.epsilon)
        return (normed * (scale if self.offset == 0 else self.offset + scale)).astype(self.dtype or x.dtype)


def dense(
    features: int,
    axes: tuple[str | None, str | None],
    init_std: float,
    dtype,
    name: str | None = None,
    use_bias: bool = True,
    bias: float = 0.0,
    part: Part = Part.OTHER,
) -> nn.Dense:
    """Makes a dense layer `[..., D] -> [..., features]` that computes a `part`, with a kernel of logical
    `axes`, at first normal(`init_std`), and a bias, at first `bias` everywhere."""
    return Dense(
        features,
        use_bias,
        dtype,
        kernel_init=nn.with_logical_partitioning(nn.initializers.normal(init_std), axes),
        bias_init=nn.initializers.constant(bias),
        dot_general=dense_product,
        part=part,
        name=name,
    )


def kept_by_dropout(key: jax.Array, rate: float, shape: tuple[int, ...]) -> tuple[jax.Array, float]:
    """Returns which elements of an array dropout keeps (True), and the share that is kept, 1 - rate to 2^-32.

    An element's draw is its number in the array, mixed with two words that are drawn from the key. Threefry, which has
    to withstand more than dropout asks, takes ten times as long for as many draws on a CPU (docs/performance.md).
    """
    number, stride = jnp.zeros((), jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        number = number + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return kept_of_numbers(key, rate, number)


def kept_of_numbers(key: jax.Array, rate: float, number: jax.Array) -> tuple[jax.Array, float]:
    """Draws as `kept_by_dropout` for elements of given numbers, uint32: part of an array draws as the whole does."""
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    draws = _mixed(_mixed(number ^ first) ^ second)
    threshold = min(max(round((1 - rate) * 2**32), 1), 2**32 - 1)
    return draws < jnp.uint32(threshold), threshold / 2**32


def _mixed(x: jax.Array) -> jax.Array:
    """Permutes the uint32 such that each bit of the result depends on all bits of `x` (Wellons 2018, "lowbias32")."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014), like `flax.linen.Dropout` but with the draws of `kept_by_dropout`.

    Attributes:
      rate: the share of elements that become 0; the others are scaled up.
      deterministic: whether dropout is off.
    """

    rate: float
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.deterministic or self.rate == 0:
            return x
        kept, share = kept_by_dropout(self.make_rng("dropout"), self.rate, x.shape)
        return jnp.where(kept, x / share, jnp.zeros_like(x))


FEW_ROWS = 1024
"""The most rows of a table whose gradient is a product: with more rows, a product costs more than additions do."""


class Embed(nn.Embed):
    """An embedding table whose gradient is fast on accelerators.

    Accelerators add the gradients of a row one after the other: with few rows, as for token types, where all of a batch
    meets in one, and in bfloat16, which they cannot add in one instruction, that takes longer than all the rest of a
    training step. So the gradient of few rows is a product, and that of many is added in float32.
    """

    def __call__(self, inputs: jax.Array) -> jax.Array:
        if jax.default_backend() == "cpu":
            return super().__call__(inputs)
        look_up = _few_rows if self.num_embeddings <= FEW_ROWS else _many_rows
        return look_up(self.embedding, inputs, self.dtype)


def _many_rows(table: jax.Array, rows: jax.Array, dtype) -> jax.Array:
    return jnp.take(table, rows, axis=0).astype(dtype)


_few_rows = jax.custom_jvp(_many_rows, nondiff_argnums=(1, 2))


@_few_rows.defjvp
def _few_rows_jvp(rows, dtype, primals, tangents):
    (table,), (of_table,) = primals, tangents
    chosen = jax.nn.one_hot(rows, len(table), dtype=dtype)
    product = jnp.dot(chosen, of_table.astype(dtype), precision=jax.lax.Precision.HIGHEST)
    return _few_rows(table, rows, dtype), product


def embedding(
    rows: int, features: int, axis: str, init_std: float, dtype, name: str | None = None, columns: str = "embed"
) -> nn.Embed:
    """Makes an embedding table `[rows, features]` of logical axes (axis, columns), initially normal(`init_std`)."""
    init = nn.with_logical_partitioning(nn.initializers.normal(init_std), (axis, columns))
    return Embed(rows, features, dtype=dtype, embedding_init=init, name=name)


def layer_norm(
    epsilon: float, dtype, name: str | None = None, part: Part = Part.NORM, use_bias: bool = True
) -> nn.LayerNorm:
    """Makes a LayerNorm over the last axis, with the two-pass variance: E[x^2] - E[x]^2 loses digits to outliers."""
    return LayerNorm(epsilon, dtype, use_bias=use_bias, use_fast_variance=False, part=part, name=name)


def rms_norm(epsilon: float, dtype, name: str | None = None, part: Part = Part.NORM, offset: float = 0.0) -> nn.RMSNorm:
    """Makes an RMSNorm (Zhang and Sennrich 2019) over the last axis, whose scale is beside a constant `offset`."""
    return RMSNorm(epsilon=epsilon, dtype=dtype, part=part, offset=offset, name=name)
