"""Bases in which tensors are quantized: a product is the same in each."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from qtx.quantization.basis import BASES, enter, leave
from qtx.quantization.estimators import MinMax
from qtx.quantization.granularity import Tensor
from qtx.quantization.methods.hadamard import random_signs
from qtx.quantization.plan import Planned
from qtx.quantization.rounding import round_to_range


@pytest.mark.representative("12", "100")
@pytest.mark.parametrize("size", [1, 2, 16, 12, 20, 28, 100, 384, 768])
def test_rotations_are_orthogonal_and_flat(size):
    r, other = (np.asarray(enter(jnp.eye(size), {"hadamard": random_signs(size, seed)})) for seed in (0, 1))
    np.testing.assert_allclose(r @ r.T, np.eye(size), atol=1e-5)
    if size not in (28, 100):  # 7 and 25 have no Hadamard factor here
        np.testing.assert_allclose(np.abs(r), size**-0.5, rtol=1e-5)
    assert size == 1 or not np.array_equal(r, other)


ARRAYS = {
    "shift": np.array([3.0, -1.0, 0.5, 0.0]),
    "smooth": np.array([2.0, 0.5, 7.0, 1.0]),
    "rotation": scipy.stats.ortho_group(4, seed=0).rvs(),
    "hadamard": np.array([1.0, -1.0, -1.0, 1.0]),
}


@pytest.mark.parametrize("kinds", [*((kind,) for kind in ARRAYS), tuple(BASES)], ids="+".join)
def test_a_product_is_the_same_in_a_basis(kinds):
    """NumPy and SciPy compute what the integers hold, ((x - z) / s) R diag(e) H, and add z W."""
    assert ARRAYS.keys() == BASES.keys()
    basis = {kind: jnp.asarray(ARRAYS[kind], jnp.float32) for kind in kinds}
    z, s, r, e = (
        ARRAYS[kind] if kind in kinds else of_none
        for kind, of_none in zip(ARRAYS, (np.zeros(4), np.ones(4), np.eye(4), None), strict=True)
    )
    r = r if e is None else r @ np.diag(e) @ scipy.linalg.hadamard(4) / 2
    x, w = jax.random.normal(jax.random.key(0), (5, 4)), jax.random.normal(jax.random.key(1), (4, 3))
    np.testing.assert_allclose(enter(x, basis), (x - z) / s @ r, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(enter(x, basis) @ enter(w, basis, weight=True) + z @ w, x @ w, rtol=1e-4, atol=1e-5)
    for tensor, weight in ((x, False), (w, True)):
        np.testing.assert_allclose(leave(enter(tensor, basis, weight), basis, weight), tensor, rtol=1e-4, atol=1e-6)


def test_a_basis_keeps_bfloat16():
    r = {"bits": 8.0, "minimum": -3.0, "maximum": 3.0, "hadamard": jnp.asarray(random_signs(12, 0))}
    y = jnp.ones((2, 12), jnp.bfloat16)
    assert round_to_range(y, r, Planned("final_norm", False, MinMax(), Tensor(), False)).dtype == y.dtype
