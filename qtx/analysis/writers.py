"""Hidden units that write or erase spikes: a unit of a feed-forward network that is large at one token, times a large
column of the kernel behind it, makes a dimension of the residual stream hundreds of times as large as all others."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from qtx.anatomy import Anatomy
from qtx.foundation.batch import Batch
from qtx.masks import counted
from qtx.parts import Part
from qtx.quantization.plan import flatten
from qtx.sites import capture


class Writer(NamedTuple):
    """A hidden unit.

    Attributes:
      site: the path of the tensor that the unit is in, e.g. `"layers/mlp/hidden"`.
      layer, unit: the place of the unit.
      dimension: the dimension of the residual stream that the unit writes most into.
      write: the largest magnitude of what the unit adds to one dimension at one token.
      ratio: how many times the median unit of the layer writes.
    """

    site: str
    layer: int
    unit: int
    dimension: int
    write: float
    ratio: float


def spike_writers(module: nn.Module, params: Any, batches: Iterable[Batch], anatomy: Anatomy) -> list[Writer]:
    """Returns the hidden units of all feed-forward networks, those that write most, compared with the median unit of
    their layer, first. Both the largest activation over the batches and the largest column of the kernel count: by the
    weights alone these units are not found.

    Args:
      module: the model.
      params: the parameters.
      batches: the texts.
      anatomy: the model's (`qtx.anatomy.read`).
    """
    flat, found = flatten(params), []
    of_hidden = _readers(anatomy)
    largest: dict[str, np.ndarray] = {}
    for batch in batches:
        for site, values in _largest(module, tuple(of_hidden), params, batch).items():
            largest[site] = np.maximum(largest.get(site, 0.0), np.asarray(values))
    for site, kernel in of_hidden.items():
        columns = np.abs(np.asarray(flat[f"{kernel}/kernel"], np.float32))
        writes = largest[site] * columns.max(axis=-1)  # [L, F]
        columns = np.broadcast_to(columns, (*writes.shape, columns.shape[-1]))  # layers may share one kernel
        ratios = writes / np.maximum(np.median(writes, axis=-1, keepdims=True), 1e-12)
        found += [
            Writer(site, layer, unit, int(columns[layer, unit].argmax()), float(write), float(r))
            for (layer, unit), write, r in zip(np.ndindex(writes.shape), writes.ravel(), ratios.ravel(), strict=True)
        ]
    return sorted(found, key=lambda one: -one.ratio)


def _readers(anatomy: Anatomy) -> Mapping[str, str]:
    """Maps each site of hidden units in a stack to the dense layer that multiplies it."""
    readers = {}
    for layer, (origin, *_) in anatomy.operands.of.items():
        site = None if origin is None or origin.site is None else anatomy.sites.get(origin.site)
        if site is not None and site.part is Part.HIDDEN and anatomy.kernel_of(layer) is not None and site.stack:
            readers[site.path] = layer
    return readers


@functools.partial(jax.jit, static_argnums=(0, 1))
def _largest(module: nn.Module, sites: tuple[str, ...], params: Any, batch: Batch) -> dict[str, jax.Array]:
    """Returns the largest magnitudes of hidden units over the real tokens of a batch, `[L, F]` by site."""
    captured = capture(module.apply, sites, {"params": params}, batch)[1]

    def of(x: jax.Array) -> jax.Array:
        real = counted(x.shape[1:], batch, model=module)
        return jnp.where(True if real is None else real, jnp.abs(x), 0.0).max(axis=(1, 2))

    return {site: of(x) for site, x in captured.items()}
