"""The least p-norm of the quantization error: a search for how far to clip a tensor's range."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from qtx.foundation.limits import at_least, one_of, positive
from qtx.quantization.affine import make_grid
from qtx.quantization.estimators.base import Estimator
from qtx.quantization.estimators.histogram import estimated_error, histogram
from qtx.quantization.estimators.minmax import extremes

GOLDEN = (5**0.5 - 1) / 2
# Ten steps narrow the interval to 8e-3 of its length, as fine as the grid. Further in, float32 sums of errors differ by
# less than their rounding: the result would depend on the order in which devices add up.
GOLDEN_STEPS = 10
MANY = 2**14
"""The number of values above which a histogram costs less than exact errors of all candidates."""
NEAR = 8
"""The number of candidates whose error is exact even for a tensor of more values."""


@dataclasses.dataclass(frozen=True)
class Lp(Estimator):
    """The range f * [low, high], 0 < f <= 1, with the least sum of |x - Q(x)|^p (Nahshan et al. 2019, LAPQ).

    The first tensor sets the reach [low, high]. On a symmetric grid, both ends are absmax + margin; on an asymmetric
    grid, each end is its own extreme, widened by the margin. If no value is below 0, low is 0; on an asymmetric grid,
    high is 0 if no value is above 0.

    Attributes:
      p: exponent of the norm. 2 is the mean squared error (the estimator `mse`); a larger p weighs outliers more.
      search: "grid": f = i / candidates, i = 1..candidates, with errors added up over all tensors seen, as in the
        paper's code; for a tensor of more than 2^14 values, only the eight candidates about the best so far get exact
        errors, the others estimates from a histogram. "golden": golden-section search on every tensor alone, with f
        averaged over the tensors, at the risk of a local minimum.
      candidates: number of values of f; "golden" searches from 1 / candidates to 1.
      margin: how far beyond the extremes the search reaches.
    """

    p: Annotated[float, positive("e.g. 2.4")] = 2.4
    search: Annotated[str, one_of(("grid", "golden"))] = "grid"
    candidates: Annotated[int, at_least(1)] = 100
    margin: Annotated[float, at_least(0)] = 0.5

    def init(self):
        errors = jnp.zeros(self.candidates if self.search == "grid" else ())
        return {"found": errors, "low": jnp.zeros(()), "high": jnp.zeros(()), "tensors": jnp.zeros(())}

    def update(self, state, x, bits, symmetric, where=None):
        x = x.astype(jnp.float32)
        minimum, maximum = extremes(x, where)
        first = state["tensors"] == 0
        signed, positive = minimum < 0, maximum > 0
        low, high = -minimum + self.margin, maximum + self.margin
        if symmetric:
            low = high = jnp.maximum(low, high)
            positive = jnp.ones_like(positive)
        low = jnp.where(first, jnp.where(signed, -low, 0.0), state["low"])
        high = jnp.where(first, jnp.where(positive, high, 0.0), state["high"])

        def error(minimum, maximum):
            grid = make_grid(minimum, maximum, bits, symmetric)
            # Errors in steps of the grid take fewer operations than `fake_quantize`; a search spends its time on them.
            steps = x * (1 / grid.scale)
            nearest = jnp.round(jnp.clip(steps, grid.low - grid.zero_point, grid.high - grid.zero_point))
            difference = jnp.abs(steps - nearest)
            powers = jnp.square(difference) if self.p == 2 else difference**self.p
            # Rows are summed first: one float32 sum over millions of small errors would lose digits.
            powers = powers if where is None else jnp.where(where, powers, 0.0)
            return grid.scale**self.p * powers.sum(axis=-1).sum()

        if self.search == "grid":
            candidates = self._grid(low, high)
            if x.size <= MANY or self.candidates <= NEAR:
                found = state["found"] + jax.lax.map(lambda ends: error(*ends), candidates)
            else:
                # The span includes 0, so that bins of values that are all equal still have a width.
                span = jnp.minimum(minimum, 0.0), jnp.maximum(maximum, 0.0)
                counts = histogram(x, *span, where)

                def estimate(ends):
                    return estimated_error(counts, *span, make_grid(ends[0], ends[1], bits, symmetric), self.p)

                errors = jax.lax.map(estimate, candidates)
                best = (state["found"] + errors).argmin()
                first = jnp.clip(best - NEAR // 2, 0, self.candidates - NEAR)
                near = [jax.lax.dynamic_slice_in_dim(ends, first, NEAR) for ends in candidates]
                exact = jax.lax.map(lambda ends: error(*ends), tuple(near))
                found = state["found"] + jax.lax.dynamic_update_slice_in_dim(errors, exact, first, 0)
        else:
            found = state["found"] + golden_section(lambda f: error(f * low, f * high), 1 / self.candidates, 1.0)
        return {"found": found, "low": low, "high": high, "tensors": state["tensors"] + 1}

    def result(self, state):
        low, high = state["low"], state["high"]
        if self.search == "grid":
            lows, highs = self._grid(low, high)
            best = state["found"].argmin()
            return lows[best], highs[best]
        fraction = state["found"] / jnp.maximum(state["tensors"], 1)
        return fraction * low, fraction * high

    def _grid(self, low, high):
        """Returns both ends of every candidate, `[candidates]` each; divides first, as the paper's code does."""
        steps = jnp.arange(1, self.candidates + 1)
        return low / self.candidates * steps, high / self.candidates * steps


def golden_section(function, low: float, high: float) -> jax.Array:
    """Finds where a unimodal `function` is least on [low, high], to 4e-3 of the interval (Kiefer 1953); float32."""

    def narrow(_, state):
        low, high, inner_low, inner_high, at_low, at_high = state
        left = at_low < at_high
        low, high = jnp.where(left, low, inner_low), jnp.where(left, inner_high, high)
        point = jnp.where(left, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        value = function(point)
        return (
            low,
            high,
            jnp.where(left, point, inner_high),
            jnp.where(left, inner_low, point),
            jnp.where(left, value, at_high),
            jnp.where(left, at_low, value),
        )

    ends = jnp.float32(low), jnp.float32(high)
    points = ends[1] - GOLDEN * (ends[1] - ends[0]), ends[0] + GOLDEN * (ends[1] - ends[0])
    state = jax.lax.fori_loop(0, GOLDEN_STEPS, narrow, (*ends, *points, *map(function, points)))
    return (state[0] + state[1]) / 2
