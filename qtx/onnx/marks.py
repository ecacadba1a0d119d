"""Marks: operations that stand for a module's work in a trace, where a runtime has a node, or a faster form, for it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive

from qtx.attention.multi_head import WithParameters
from qtx.attention.normalizers.base import SoftmaxLike
from qtx.layers import Product
from qtx.sites import SITE_MODULES, watching


def _mark(name: str, shape: Callable[..., tuple[Any, ...]]) -> Primitive:
    """Makes an operation whose float32 result has the shape `shape(*shapes of the inputs, **options)`."""
    primitive = Primitive(f"qtx_{name}")

    def result(*inputs: Any, **options: Any) -> ShapedArray:
        return ShapedArray(shape(*(x.shape for x in inputs), **options), jnp.float32)

    primitive.def_abstract_eval(result)
    return primitive


def _product_shape(left: Any, right: Any, *, equation: str, scale: float) -> tuple[Any, ...]:
    operands, _, result = equation.partition("->")
    of_left, _, of_right = operands.partition(",")
    sizes = dict(zip(of_left + of_right, (*left, *right), strict=True))
    return tuple(sizes[letter] for letter in result)


DENSE = _mark("dense", lambda x, kernel, *bias, path: (*x[:-1], kernel[-1]))
"""x `[..., D]`, kernel `[D, F]` and perhaps a bias `[F]`, of the layer at `path`."""
NORM = _mark("norm", lambda x, *parameters, path, epsilon: x)
"""The LayerNorm of x `[..., D]` with a scale and perhaps a bias `[D]`."""
LOOK_UP = _mark("look_up", lambda table, rows, path: (*rows, table[-1]))
"""The rows of a table `[N, D]`."""
SOFTMAX = _mark("softmax", lambda scores, *others, masked, emptied: scores)
"""The softmax of scores `[B, H, T, S]`; then, if `masked`, which keys are visible; if `emptied`, an empty key's logit
(`qtx.attention.normalizers.base.softmax`)."""
PRODUCT = _mark("product", _product_shape)
"""The product of two activations by an `equation`, times `scale`."""
SITE = _mark("site", lambda x, path: x)
"""x, the tensor at a site."""


@contextlib.contextmanager
def marked() -> Iterator[None]:
    """Makes the modules of a model leave marks, within the context, in a trace. The attention forms its scores."""

    def interceptor(next_function, args, kwargs, context):
        module: Any = context.module
        if context.method_name != "__call__":
            return next_function(*args, **kwargs)
        path = "/".join(module.path)
        if isinstance(module, nn.Dense):
            held = _held(module)
            y = DENSE.bind(args[0], held["kernel"], *_optional(held, "bias"), path=path)
        elif isinstance(module, nn.LayerNorm):
            held = _held(module)
            y = NORM.bind(args[0], held["scale"], *_optional(held, "bias"), path=path, epsilon=module.epsilon)
        elif isinstance(module, nn.Embed):
            return SITE.bind(LOOK_UP.bind(_held(module)["embedding"], args[0], path=path), path=path)
        elif isinstance(module, Product):
            return PRODUCT.bind(*args, equation=module.equation, scale=float(module.scale))
        elif isinstance(module, WithParameters) and type(args[0]).__call__ is SoftmaxLike.__call__:
            return next_function(functools.partial(_normalized, args[0]), *args[1:], **kwargs)
        else:
            y = next_function(*args, **kwargs)
        return SITE.bind(y, path=path) if isinstance(module, SITE_MODULES) else y

    with watching(lambda path: True), nn.intercept_methods(interceptor):
        yield


def _normalized(normalizer: SoftmaxLike, parameters: Any, scores: jax.Array, rows: Any) -> jax.Array:
    """Computes what `SoftmaxLike.__call__` does."""
    visible, empty = rows.mask.dense(), normalizer.empty(parameters, rows)
    others = [x for x in (visible, empty) if x is not None]
    probs = SOFTMAX.bind(scores, *others, masked=visible is not None, emptied=empty is not None)
    return normalizer.finish(parameters, probs, rows)


def _held(module: nn.Module) -> Any:
    return nn.unbox(module.variables["params"])


def _optional(held: Any, name: str) -> list[jax.Array]:
    return [held[name]] if name in held else []
