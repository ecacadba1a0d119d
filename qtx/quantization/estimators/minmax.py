"""Current min-max: the ends of the last tensor seen."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class MinMax:
    """[min(x), max(x)]; for weights, which are one tensor."""

    def init(self):
        return {"minimum": jnp.zeros(()), "maximum": jnp.zeros(())}

    def update(self, state, x, bits, symmetric):
        x = x.astype(jnp.float32)
        return {"minimum": x.min(), "maximum": x.max()}

    def result(self, state):
        return state["minimum"], state["maximum"]
