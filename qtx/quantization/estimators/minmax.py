"""Current min-max: the ends of the last tensor seen."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qtx.quantization.estimators.base import Estimator


def extremes(x: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Returns the least and the largest value of `x` among those where `where` is True, float32; both 0 if none is."""
    x = x.astype(jnp.float32)
    if where is None:
        return x.min(), x.max()
    where = jnp.broadcast_to(where, x.shape)
    some = where.any()
    low, high = x.min(where=where, initial=jnp.inf), x.max(where=where, initial=-jnp.inf)
    return jnp.where(some, low, 0.0), jnp.where(some, high, 0.0)


@dataclasses.dataclass(frozen=True)
class MinMax(Estimator):
    """The range [min(x), max(x)] of the last tensor x; for weights, which are one tensor (Krishnamoorthi 2018)."""

    def init(self):
        return {"minimum": jnp.zeros(()), "maximum": jnp.zeros(())}

    def update(self, state, x, bits, symmetric, where=None):
        minimum, maximum = extremes(x, where)
        return {"minimum": minimum, "maximum": maximum}

    def result(self, state):
        return state["minimum"], state["maximum"]
