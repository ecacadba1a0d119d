"""Square: the mean of squares."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from qtx.training.penalties.base import Penalty


@dataclasses.dataclass(frozen=True)
class Square(Penalty):
    """The penalty mean_d x_d^2: our reading of the "small" penalty on the outputs of the feed-forward networks with
    which Bondarenko et al. 2023 (appendix B.6) fine-tune OPT-1.3B; the paper gives neither formula nor weight."""

    def __call__(self, x, step):
        return jnp.square(x).mean(axis=-1)
