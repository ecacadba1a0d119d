"""Least squared error: a grid search over symmetric clipping thresholds."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qtx.errors import QtxError
from qtx.quantization.affine import fake_quantize, make_grid


@dataclasses.dataclass(frozen=True)
class Mse:
    """The threshold t_i = i / candidates * (absmax + margin), i = 1..candidates, whose range [-t_i, t_i] (or [0, t_i]
    for a tensor without negative values) has the least squared quantization error, summed over all tensors seen.

    The first tensor sets absmax. Symmetric quantizers only. The paper uses it for weights below 8 bits and for OPT.

    Attributes:
      candidates: thresholds tried.
      margin: how far beyond absmax the search reaches.

    Raises:
      QtxError: if candidates < 1 or margin < 0.
    """

    candidates: int = 100
    margin: float = 0.5

    def __post_init__(self):
        if self.candidates < 1 or self.margin < 0:
            raise QtxError("the mse estimator needs candidates >= 1 and margin >= 0")

    def init(self):
        return {"errors": jnp.zeros(self.candidates), "reach": jnp.zeros(()), "signed": jnp.zeros(())}

    def update(self, state, x, bits, symmetric):
        if not symmetric:
            raise QtxError("the mse estimator searches symmetric ranges: use running_minmax for asymmetric activations")
        x = x.astype(jnp.float32)
        first = state["reach"] == 0
        reach = jnp.where(first, jnp.abs(x).max() + self.margin, state["reach"])
        signed = jnp.where(first, (x.min() < 0).astype(jnp.float32), state["signed"])

        def error(threshold):
            difference = x - fake_quantize(x, make_grid(-threshold * signed, threshold, bits, symmetric=True))
            return jnp.square(difference).sum(axis=-1).sum()

        errors = jax.lax.map(error, self.thresholds(reach))
        return {"errors": state["errors"] + errors, "reach": reach, "signed": signed}

    def thresholds(self, reach: jax.Array) -> jax.Array:
        """All candidates `[candidates]`."""
        return reach / self.candidates * jnp.arange(1, self.candidates + 1)

    def result(self, state):
        best = self.thresholds(state["reach"])[state["errors"].argmin()]
        return -best * state["signed"], best
