"""Statistics of what dense layers multiply."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.quantization.methods.inputs import absmax, gram, of_inputs


class Twice(nn.Module):
    """One dense layer on x, and again on 3 x."""

    @nn.compact
    def __call__(self, batch):
        layer = nn.Dense(2, name="layer")
        return layer(batch["x"]) + layer(3 * batch["x"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statistic", "combine", "expected"),
    [(gram, jnp.add, [[50.0, 20.0], [20.0, 10.0]]), (absmax, jnp.maximum, [6.0, 3.0])],
    ids=["gram", "absmax"],
)
def test_a_layer_that_runs_twice_has_the_statistics_of_both_runs(statistic, combine, expected):
    batches = [{"x": jnp.array([[1.0, 0.0]])}, {"x": jnp.array([[-2.0, -1.0]])}]
    params = {"layer": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}}
    # x x^T of (1, 0), (3, 0), (-2, -1) and (-6, -3), by hand.
    found = of_inputs(Twice(), params, batches, ("layer",), statistic, combine, {})["layer"]
    np.testing.assert_array_equal(found, expected)
