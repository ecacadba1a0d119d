"""Running min-max: an exponential moving average of each batch's ends, or of its percentiles."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax.numpy as jnp

from qtx.foundation.limits import within
from qtx.quantization.estimators.minmax import MinMax, extremes
from qtx.quantization.estimators.percentile import percentile_ends


@dataclasses.dataclass(frozen=True)
class RunningMinMax(MinMax):
    """The moving average r_1 = m_1, r_i = (1 - momentum) m_i + momentum r_(i-1) of each batch i's ends m_i
    (Krishnamoorthi 2018).

    Attributes:
      momentum: weight of the range before; 0.9 in the paper.
      percentile: m_i are the (100 - percentile)-th and percentile-th percentiles (linear interpolation) instead of the
        extremes, e.g. 99.99 (the paper's OPT). None: the extremes.
    """

    momentum: Annotated[float, within("[0, 1)", remedy="e.g. 0.9")] = 0.9
    percentile: Annotated[float | None, within("(50, 100]", remedy="e.g. 99.99")] = None

    def init(self):
        return {**super().init(), "batches": jnp.zeros(())}

    def update(self, state, x, bits, symmetric, where=None):
        ends = extremes(x, where) if self.percentile is None else percentile_ends(x, self.percentile, where)
        momentum = jnp.where(state["batches"] == 0, 0.0, self.momentum)
        minimum, maximum = (
            (1 - momentum) * end + momentum * state[name]
            for name, end in zip(("minimum", "maximum"), ends, strict=True)
        )
        return {"minimum": minimum, "maximum": maximum, "batches": state["batches"] + 1}
