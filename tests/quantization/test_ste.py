"""Straight-through fake quantization: the forward is that of the grid, the gradient is the derivation's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtx.quantization import fake_quantize, make_grid
from qtx.quantization.ste import fake_quantize_ste

gradients = jax.jit(
    jax.grad(
        lambda x, low, high, weights, bits, symmetric: jnp.sum(
            weights * fake_quantize_ste(x, low, high, bits, symmetric)
        ),
        argnums=(0, 1, 2),
    ),
    static_argnums=5,
)
quantize = jax.jit(fake_quantize_ste, static_argnums=4)
reference_quantize = jax.jit(
    lambda x, low, high, bits, symmetric: fake_quantize(x, make_grid(low, high, bits, symmetric)), static_argnums=4
)
cases = given(
    low=st.floats(-50, 0, width=32),
    high=st.floats(0, 50, width=32),
    bits=st.integers(2, 16),
    symmetric=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)


def reference(x, low, high, weights, bits, symmetric):
    """The gradients in float64, from s and z by the chain rule, value by value: not the simplified formula."""
    f32 = np.float32
    grid = make_grid(f32(low), f32(high), bits, symmetric)
    s, z, first, n = (float(v) for v in (grid.scale, grid.zero_point, grid.low, grid.high))
    low, high = min(float(low), 0.0), max(float(high), 1e-8)
    if symmetric:
        share = 0.5 if -low == high else float(high > -low)
        ds, dz = np.array([share - 1, share]) / n, np.zeros(2)
    else:
        ds = np.array([-1, 1]) / n
        dz = low / s**2 * ds + np.array([-1, 0]) / s
    dx, ends = np.zeros(x.size), np.zeros(2)
    for i, (value, weight) in enumerate(zip(x, weights, strict=True)):
        v = float(f32(value) / f32(s))
        q = np.round(v) + z
        by_scale = np.round(v) - v if first <= q <= n else (first if q < first else n) - z
        by_zero = 0.0 if first <= q <= n else -s
        dx[i] = weight * (first <= q <= n)
        ends += weight * (by_scale * ds + by_zero * dz)
    return dx, *(ends / np.sqrt(x.size * n))


def values(low, high, seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(1.5 * low - 1e-3, 1.5 * high + 1e-3, 64).astype(np.float32)
    return x, rng.normal(size=64).astype(np.float32)


@settings(max_examples=60, deadline=None)
@cases
def test_forward_is_that_of_the_grid_bit_for_bit(low, high, bits, symmetric, seed):
    x, _ = values(low, high, seed)
    np.testing.assert_array_equal(
        quantize(x, low, high, bits, symmetric), reference_quantize(x, low, high, bits, symmetric)
    )
    np.testing.assert_array_equal(
        fake_quantize_ste(jnp.asarray(x), low, high, bits, symmetric),
        fake_quantize(jnp.asarray(x), make_grid(low, high, bits, symmetric)),
    )


@settings(max_examples=60, deadline=None)
@cases
def test_gradients_are_those_of_the_chain_rule(low, high, bits, symmetric, seed):
    if max(-low, high) < 1e-3:
        low = -1.0
    x, weights = values(low, high, seed)
    found = gradients(x, np.float32(low), np.float32(high), weights, np.float32(bits), symmetric)
    dx, dlow, dhigh = reference(x, low, high, weights, bits, symmetric)
    np.testing.assert_allclose(found[0], dx, rtol=1e-6)
    # A rounding residue, divided by 2^bits, is the difference of numbers of that size: so far go float32's digits.
    np.testing.assert_allclose(found[1:], (dlow, dhigh), rtol=1e-4, atol=2e-5)


def test_the_ends_learn_from_what_they_clip():
    """Where nothing but clipping moves x_hat, the derivative can be measured: that of the end, and no other."""
    low, high, scale = np.float32(-2.0), np.float32(6.0), 1 / np.sqrt(1 * 255)
    for x, expected in ((-5.0, (1.0, 0.0)), (9.0, (0.0, 1.0))):
        dx, dlow, dhigh = gradients(np.float32([x]), low, high, np.ones(1, np.float32), np.float32(8), False)
        assert dx == 0
        np.testing.assert_allclose((dlow, dhigh), np.array(expected) * scale, atol=0.6 / 255 * scale)
        # Moving both ends by one step of the grid moves the clipped value by one step, and the gradient says so.
        step = np.float32(8 / 255)
        moved = [quantize(np.float32([x]), low + d, high + d, 8, False)[0] for d in (0, step)]
        assert moved[1] - moved[0] == pytest.approx(float(step) * float(dlow + dhigh) / scale, rel=0.05)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("ends", [(0.0, 0.0), (0.5, -0.5), (-1e-12, 1e-12), (0.0, 1e4)])
def test_gradients_of_a_tensor_of_zeros_or_a_range_of_nothing_are_finite(symmetric, ends):
    for x in (np.zeros(8, np.float32), np.float32([1e4, -1e4])):
        found = gradients(x, np.float32(ends[0]), np.float32(ends[1]), np.ones_like(x), np.float32(8), symmetric)
        assert all(np.isfinite(g).all() for g in found)


def test_an_end_beyond_zero_finds_back():
    """Values are clipped at 0, though the minimum is 0.1 by now: descending the loss takes it down again."""
    _, dlow, _ = gradients(np.float32([-1.0, -2.0]), np.float32(0.1), np.float32(1), np.float32([-1, -1]), 8.0, False)
    assert dlow < 0  # of -x_hat: x_hat would grow with the minimum
    _, dlow, _ = gradients(np.float32([-1.0, -2.0]), np.float32(0.1), np.float32(1), np.float32([1, 1]), 8.0, False)
    assert dlow > 0


@pytest.mark.parametrize("symmetric", [False, True])
def test_ranges_of_channels_learn_from_their_own(symmetric):
    rng = np.random.default_rng(0)
    x, weights = (rng.normal(size=(5, 3)).astype(np.float32) for _ in range(2))
    low, high = np.float32([-1, -0.5, -2]), np.float32([0.5, 1, 1.5])
    together = gradients(x, low, high, weights, np.float32(4), symmetric)
    for channel in range(3):
        at = np.s_[..., channel]
        alone = gradients(x[at], low[channel], high[channel], weights[at], np.float32(4), symmetric)
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_allclose(one[at], other, rtol=1e-5)


def test_equal_ends_of_a_symmetric_range_stay_equal():
    x = np.linspace(-3, 3, 31).astype(np.float32)
    _, dlow, dhigh = gradients(x, np.float32(-2), np.float32(2), np.sign(x), np.float32(4), True)
    assert dhigh == -dlow and dhigh > 0


def test_bfloat16_is_kept():
    x = jnp.linspace(-1, 1, 8, dtype=jnp.bfloat16)
    dx, dlow, dhigh = gradients(x, np.float32(-0.5), np.float32(0.5), np.ones(8, jnp.bfloat16), np.float32(4), False)
    assert (dx.dtype, dlow.dtype, dhigh.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
