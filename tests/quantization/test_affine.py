"""Affine grids: their invariants, and their formula."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtx.quantization import fake_quantize, make_grid

ends = st.floats(-1e4, 1e4, width=32)


@settings(max_examples=60, deadline=None)
@given(a=ends, b=ends, bits=st.integers(2, 16), symmetric=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_grid_invariants(a, b, bits, symmetric, seed):
    low, high = min(a, b), max(a, b)
    grid = make_grid(low, high, bits, symmetric)
    x = np.random.default_rng(seed).uniform(low - 1, high + 1, 64).astype(np.float32)
    q = np.asarray(grid.quantize(jnp.asarray(x)))
    assert np.all(q == np.round(q)) and q.min() >= grid.low and q.max() <= grid.high
    assert grid.high - grid.low == 2**bits - 1
    assert fake_quantize(jnp.zeros(1), grid)[0] == 0
    rounded = fake_quantize(jnp.asarray(x), grid)
    np.testing.assert_array_equal(fake_quantize(rounded, grid), rounded)
    first, last = (float(end) for end in grid.ends)
    inside = (x >= first) & (x <= last)
    # Half a step, plus the float32 rounding of x / scale near the far end of a 16-bit grid.
    allowed = float(grid.scale) * (0.5 + 2**bits * 2e-7)
    assert np.all(np.abs(np.asarray(rounded) - x)[inside] <= allowed)


def of_any_size(sign):
    """0, or of a size from far below the smallest step to far beyond all activations."""
    sizes = st.builds(lambda digits, power: sign * digits * 10.0**power, st.floats(1, 10), st.integers(-14, 30))
    return sizes | st.just(0.0)


@settings(max_examples=100, deadline=None)
@given(low=of_any_size(-1), high=of_any_size(1), bits=st.integers(2, 16), symmetric=st.booleans())
def test_a_range_of_any_size_is_covered_from_its_first_integer_on(low, high, bits, symmetric):
    """Both ends to half a step, and 0 exactly, by the finest step that does it."""
    low, high = float(np.float32(low)), float(np.float32(high))
    grid = make_grid(low, high, bits, symmetric)
    scale, first, last = float(grid.scale), *map(float, grid.ends)
    signed = symmetric and low < 0
    step = max(-low, high) / (2 ** (bits - 1) - 1) if signed else (high - low) / (2**bits - 1)
    assert scale == pytest.approx(max(step, 1e-8), rel=1e-5, abs=1e-8 / (2 ** (bits - 1) - 1))
    assert fake_quantize(jnp.zeros(1), grid)[0] == 0 and first <= 0 <= last
    half_step = (0.5 + 2**bits * 2**-22) * scale  # four float32 roundings, each of a value up to 2^bits steps
    assert first <= low + half_step and last >= high - half_step
    if not symmetric:
        assert first >= low - half_step
    for end in (low, high):
        assert float(fake_quantize(jnp.float32([end]), grid)[0]) == pytest.approx(end, abs=0.51 * scale, rel=1e-6)


def test_asymmetric_covers_the_range_widened_to_zero():
    grid = make_grid(1.0, 3.0, 8, symmetric=False)
    assert (float(grid.zero_point), float(grid.scale)) == (0.0, pytest.approx(3 / 255))
    grid = make_grid(-3.0, -1.0, 8, symmetric=False)
    assert (float(grid.zero_point), float(grid.scale)) == (255.0, pytest.approx(3 / 255))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_symmetric_is_signed_unless_there_is_nothing_negative(bits):
    signed, unsigned = make_grid(-2.0, 1.0, bits, True), make_grid(0.5, 2.0, bits, True)
    assert (float(signed.low), float(signed.high)) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert float(signed.scale) == pytest.approx(2 / (2 ** (bits - 1) - 1))
    assert (float(unsigned.low), float(unsigned.high)) == (0, 2**bits - 1)
    assert float(unsigned.scale) == pytest.approx(2 / (2**bits - 1))


def test_an_all_zero_tensor_stays_zero():
    for symmetric in (False, True):
        np.testing.assert_array_equal(fake_quantize(jnp.zeros(3), make_grid(0.0, 0.0, 8, symmetric)), np.zeros(3))


def test_dtype_is_kept():
    assert fake_quantize(jnp.ones(2, jnp.bfloat16), make_grid(0, 1, 8, False)).dtype == jnp.bfloat16


@pytest.mark.parametrize("x, expected", [(0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (-0.5, 0.0)])
def test_ties_go_to_even(x, expected):
    assert float(make_grid(-128.0, 127.0, 8, True).quantize(jnp.float32(x * 128 / 127))) == expected
