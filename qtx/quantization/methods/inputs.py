"""Statistics of dense layers' inputs at real tokens, streamed over the calibration data without keeping any batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from qtx.foundation.errors import QtxError
from qtx.masks import counted
from qtx.quantization.basis import Bases, enter
from qtx.sites import part_of

Statistic = Callable[[jax.Array, jax.Array], jax.Array]
"""Makes one batch's statistic of an input's rows `[N, D]`, float32, of which those count where `[N, 1]` is True."""


def absmax(x: jax.Array, where: jax.Array) -> jax.Array:
    """Returns the largest absolute value of each dimension, `[N, D]` -> `[D]`."""
    return jnp.abs(x).max(axis=0, where=where, initial=0.0)


def gram(x: jax.Array, where: jax.Array) -> jax.Array:
    """Computes the sum over n of x_n x_n^T, `[N, D]` -> `[D, D]`."""
    x = jnp.where(where, x, 0.0)
    return jnp.matmul(x.T, x, precision=jax.lax.Precision.HIGHEST)


def of_inputs(
    module: nn.Module,
    params: Any,
    batches: Iterable[dict[str, Any]],
    paths: tuple[str, ...],
    statistic: Statistic,
    combine: Callable[[Any, Any], Any],
    bases: Bases,
) -> dict[str, jax.Array]:
    """Computes a statistic of the inputs of dense layers of the floating-point model.

    Args:
      module, params: the model.
      batches: what to run the model on.
      paths: paths of the dense layers, e.g. "layers/mlp/out"; other layers are left out.
      statistic: makes one batch's statistic of a layer's input, of the rows that are not padding.
      combine: makes one statistic of two, of two batches or of a layer that runs twice, e.g. `jnp.add`.
      bases: the bases that inputs enter, by path of the layer.

    Returns:
      The statistics by path, with a leading `[L]` under `layers/`; a path that is not a dense layer's is missing.

    Raises:
      QtxError: if a statistic is not finite.
    """
    total, ranges = None, traverse_util.unflatten_dict({f"{path}/basis": b for path, b in bases.items() if b}, sep="/")
    for batch in batches:
        found = _of_batch(module, paths, statistic, combine, {"params": params, "ranges": ranges}, batch)
        total = found if total is None else jax.tree.map(combine, total, found)
    assert total is not None, "there is at least one batch"
    for path, value in total.items():
        if not jnp.isfinite(value).all():
            raise QtxError(f"an input of {path!r} is not finite: check the checkpoint and the data for NaN or Inf")
    return total


@functools.partial(jax.jit, static_argnames=("module", "paths", "statistic", "combine"))
def _of_batch(
    module: nn.Module,
    paths: tuple[str, ...],
    statistic: Statistic,
    combine: Callable[[Any, Any], Any],
    variables: Any,
    batch: Any,
) -> Any:
    def interceptor(next_function, args, kwargs, context):
        layer = context.module
        if isinstance(layer, nn.Dense) and context.method_name == "__call__" and "/".join(layer.path) in paths:
            x = args[0].astype(jnp.float32)
            where = counted(x.shape, batch, model=module, part=part_of(layer))
            where = jnp.broadcast_to(True if where is None else where, (*x.shape[:-1], 1))
            x = enter(x, layer.get_variable("ranges", "basis", {}))
            found = statistic(x.reshape(-1, x.shape[-1]), where.reshape(-1, 1))
            if layer.has_variable("calibration", "statistic"):
                found = combine(layer.get_variable("calibration", "statistic"), found)
            layer.put_variable("calibration", "statistic", found)
        return next_function(*args, **kwargs)

    with nn.intercept_methods(interceptor):
        found = module.apply(variables, batch, mutable=["calibration"])[1].get("calibration", {})
    flat = traverse_util.flatten_dict(found, sep="/")
    return {path.removesuffix("/statistic"): value for path, value in flat.items()}
