"""Hinge: the square of what exceeds a threshold."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from qtx.training.penalties.base import FINITE, Penalty


@dataclasses.dataclass(frozen=True)
class Hinge(Penalty):
    """The penalty sum_d relu(|x_d| - tau)^2: zero for values within [-tau, tau], so that only outliers are pulled in.

    It is a sum over the features and not a mean, so that a few outliers weigh the same in a wider model.

    Attributes:
      tau: the threshold, in units of the site.
      tau_start: the threshold before the first update, see `Penalty`; None: `tau` from the start.
      relative: whether thresholds count in mean magnitudes of the layer's values in the batch, padding among them,
        which get no gradient: the layers of a decoder hold values of very different sizes.
    """

    tau: Annotated[float, FINITE] = 10.0
    tau_start: Annotated[float | None, FINITE] = None
    relative: bool = False

    def __call__(self, x, step):
        tau = self.annealed("tau", step)
        if self.relative:
            tau *= jax.lax.stop_gradient(jnp.abs(x).mean(axis=tuple(range(1, x.ndim)), keepdims=True))
        return jnp.square(jax.nn.relu(jnp.abs(x) - tau)).sum(axis=-1)
