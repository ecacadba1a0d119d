"""Straight-through fake quantization: the forward is that of the grid, the gradients are LSQ's and LSQ+'s."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtx.quantization import fake_quantize, make_grid
from qtx.quantization.qat.learned_step import ends, fake_quantize_learned, fake_quantize_straight_through, learnable

gradients = jax.jit(
    jax.grad(
        lambda x, learned, weights, bits: jnp.sum(weights * fake_quantize_learned(x, learned, bits)), argnums=(0, 1)
    )
)
quantize = jax.jit(fake_quantize_learned)
reference_quantize = jax.jit(
    lambda x, low, high, bits, symmetric: fake_quantize(x, make_grid(low, high, bits, symmetric)), static_argnums=4
)
cases = given(
    low=st.floats(-50, 0, width=32),
    high=st.floats(2**-10, 50, width=32),
    bits=st.integers(2, 16),
    symmetric=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)


def lsq(x, g, s, bits):
    """LSQ from the paper's equations 1 to 5, signed data: (x_hat, dL/dx, dL/ds), N all of x."""
    q_n, q_p = 2 ** (bits - 1), 2 ** (bits - 1) - 1
    v = x / s
    x_hat = np.round(np.clip(v, -q_n, q_p)) * s
    ds = np.where(v <= -q_n, -q_n, np.where(v >= q_p, q_p, np.round(v) - v))
    return x_hat, g * ((v > -q_n) & (v < q_p)), (g * ds).sum() / np.sqrt(x.size * q_p)


def lsq_plus(x, g, s, b, bits):
    """LSQ+ from the paper's equations 4 to 6, unsigned integers: (x_hat, dL/dx, dL/ds, dL/db), N all of x."""
    n = 2**bits - 1
    v = (x - b) / s
    x_hat = np.round(np.clip(v, 0, n)) * s + b
    inside = (v > 0) & (v < n)
    ds = np.where(inside, np.round(v) - v, np.where(v >= n, n, 0))
    return x_hat, g * inside, (g * ds).sum() / np.sqrt(x.size * n), (g * ~inside).sum() / np.sqrt(x.size * n)


def samples(low, high, seed, size=64):
    rng = np.random.default_rng(seed)
    x = rng.uniform(1.5 * low - 1e-3, 1.5 * high + 1e-3, size).astype(np.float32)
    return x, rng.normal(size=size).astype(np.float32)


def off_ties(v):
    """Whether values lie clear of where rounding or clipping turns: there the last digit decides."""
    return np.abs(v - np.floor(v) - 0.5) > 1e-3


@settings(max_examples=80, deadline=None)
@cases
def test_forward_is_that_of_the_grid_bit_for_bit(low, high, bits, symmetric, seed):
    x, _ = samples(low, high, seed)
    learned = learnable(np.float32(low), np.float32(high), bits, symmetric)
    minimum, maximum = ends(learned, bits)
    np.testing.assert_array_equal(quantize(x, learned, bits), reference_quantize(x, minimum, maximum, bits, symmetric))


@settings(max_examples=80, deadline=None)
@cases
def test_the_range_of_what_is_learned_is_the_calibrated_one(low, high, bits, symmetric, seed):
    size = (1.0, 1e-6, 1e-9)[seed % 3]
    low, high = low * size, high * size
    calibrated = make_grid(np.float32(low), np.float32(high), bits, symmetric)
    grid = make_grid(*ends(learnable(np.float32(low), np.float32(high), bits, symmetric), bits), bits, symmetric)
    np.testing.assert_allclose(grid.scale, calibrated.scale, rtol=1e-6)
    assert (grid.low, grid.high) == (calibrated.low, calibrated.high)
    exact = -low / float(calibrated.scale)
    assert grid.zero_point == calibrated.zero_point or abs(exact - np.floor(exact) - 0.5) < 1e-2


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@cases
def test_gradients_are_lsq_s(low, high, bits, symmetric, seed):
    low = min(low, -1e-3)
    x, g = samples(low, high, seed)
    learned = learnable(np.float32(low), np.float32(high), bits, symmetric)
    s = float(learned["step"])
    if symmetric:
        v = x / np.float64(s)
    else:
        zero_point = float(make_grid(*ends(learned, bits), bits, False).zero_point)
        v = x / np.float64(s) + zero_point
    kept = off_ties(v)
    x, g = x[kept], g[kept]
    if not len(x):
        return
    dx, found = gradients(x, learned, g, np.float32(bits))
    if symmetric:
        _, expected_dx, ds = lsq(x.astype(np.float64), g, s, bits)
    else:
        # The offset that the integers can say.
        _, expected_dx, ds, db = lsq_plus(x.astype(np.float64), g, s, -s * zero_point, bits)
        np.testing.assert_allclose(found["offset"], db, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-6)
    # A rounding residue is the difference of numbers of up to 2^bits: so far go float32's digits.
    np.testing.assert_allclose(found["step"], ds, rtol=1e-4, atol=1e-4 + 2.0 ** (bits - 24) * 8)
    assert "low" not in found or found["low"] == 0


OPTIMIZERS = {"sgd": lambda step: optax.sgd(0.02), "adamw": lambda step: optax.adamw(0.01 * step, weight_decay=0.0)}


@pytest.mark.representative("True-3-sgd")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_training_follows_the_papers(optimizer, bits, symmetric):
    """Fifty steps of fitting a grid that is far too wide: as many of the NumPy quantizer, and the error falls."""
    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 1, 501).astype(np.float32)
    high = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
    start = {"step": np.float32(12 / high)} | ({"low": np.float32(-high - 1)} if symmetric else {"offset": -6.0})
    ours = theirs = jax.tree.map(np.float32, start)
    optimizer = OPTIMIZERS[optimizer](12 / high)
    states = [optimizer.init(ours), optimizer.init(theirs)]
    errors = []
    for _ in range(50):
        rounded = quantize(x, ours, np.float32(bits))
        errors.append(float(((rounded - x) ** 2).mean()))
        _, grads = gradients(x, ours, 2 * (rounded - x), np.float32(bits))
        updates, states[0] = optimizer.update(grads, states[0], ours)
        ours = optax.apply_updates(ours, updates)

        s = float(theirs["step"])
        if symmetric:
            _, _, ds = lsq(x, 2 * (lsq(x, x, s, bits)[0] - x), s, bits)
            grads = {"step": np.float32(ds), "low": np.float32(0)}
        else:
            b = s * round(float(theirs["offset"]) / s)
            _, _, ds, db = lsq_plus(x, 2 * (lsq_plus(x, x, s, b, bits)[0] - x), s, b, bits)
            grads = {"step": np.float32(ds), "offset": np.float32(db)}
        updates, states[1] = optimizer.update(grads, states[1], theirs)
        theirs = optax.apply_updates(theirs, updates)
    for name in start:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-3, err_msg=name)
    assert ours["step"] < 0.97 * start["step"] and errors[-1] < errors[0]


def test_an_offset_learns_from_what_it_clips():
    """Where clipping alone moves x_hat, the derivative can be measured: one to one with the offset."""
    learned = {"step": np.float32(8 / 255), "offset": np.float32(-2.0)}
    moved = learned | {"offset": learned["offset"] + np.float32(8 / 255)}
    for x in (-5.0, 9.0):
        _, found = gradients(np.float32([x]), learned, np.ones(1, np.float32), np.float32(8))
        difference = quantize(np.float32([x]), moved, 8)[0] - quantize(np.float32([x]), learned, 8)[0]
        assert found["offset"] * np.sqrt(255) == pytest.approx(1) == pytest.approx(float(difference) * 255 / 8, 1e-4)


@pytest.mark.parametrize("kind", ["low", "offset"])
@pytest.mark.parametrize("step", [0.0, -0.5, 1e-12, 1e4])
def test_gradients_of_a_tensor_of_zeros_or_a_step_of_nothing_are_finite(kind, step):
    learned = {"step": np.float32(step), kind: np.float32(-8)}
    for x in (np.zeros(8, np.float32), np.float32([1e4, -1e4])):
        dx, found = gradients(x, learned, np.ones_like(x), np.float32(4))
        assert all(np.isfinite(g).all() for g in jax.tree.leaves((dx, found)))


def test_a_step_below_zero_finds_back():
    """All is clipped to about nothing: descending the squared error makes the step grow again."""
    x = np.float32([-1.0, 2.0])
    learned = {"step": np.float32(-0.1), "low": np.float32(-8)}
    _, found = gradients(x, learned, 2 * (quantize(x, learned, 4) - x), np.float32(4))
    assert found["step"] < 0


def test_zeros_at_the_end_of_a_grid_are_not_clipped():
    """After a ReLU half of the values are the smallest integer's."""
    learned = learnable(np.float32(0), np.float32(1), 4, False)
    dx, found = gradients(np.zeros(5, np.float32), learned, np.ones(5, np.float32), np.float32(4))
    assert found["offset"] == 0 and found["step"] == 0 and (dx == 1).all()


@pytest.mark.parametrize("symmetric", [False, True])
def test_ranges_of_channels_learn_from_their_own(symmetric):
    rng = np.random.default_rng(0)
    x, weights = (rng.normal(size=(5, 3)).astype(np.float32) for _ in range(2))
    learned = learnable(np.float32([-1, -0.5, -2]), np.float32([0.5, 1, 1.5]), 4, symmetric)
    together = gradients(x, learned, weights, np.float32(4))
    for channel in range(3):
        at = np.s_[..., channel]
        of_channel = {name: value[channel] for name, value in learned.items()}
        alone = gradients(x[at], of_channel, weights[at], np.float32(4))
        for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(one[at], other, rtol=1e-5)


@pytest.mark.slow
def test_dynamic_grids_pass_the_gradient_of_their_values_alone():
    x, weights = samples(-2, 2, 0)
    grid = make_grid(x.min(keepdims=True), x.max(keepdims=True), 4, False)
    np.testing.assert_array_equal(fake_quantize_straight_through(x, grid), fake_quantize(jnp.asarray(x), grid))
    dx = jax.grad(lambda x: (weights * fake_quantize_straight_through(x, grid)).sum())(x)
    assert (dx == weights).sum() >= len(x) - 2  # the two extremes may lie just beyond the ends


def test_bfloat16_is_kept():
    x = jnp.linspace(-1, 1, 8, dtype=jnp.bfloat16)
    learned = learnable(np.float32(-0.5), np.float32(0.5), 4, False)
    dx, found = gradients(x, learned, np.ones(8, jnp.bfloat16), np.float32(4))
    assert (dx.dtype, found["step"].dtype, found["offset"].dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
