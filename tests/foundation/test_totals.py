"""Totals at 10^12: beside Python's integers and fractions."""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtx.analysis import statistics
from qtx.foundation.totals import Count, Total, exact

ADDING = ("scatter-add", "reduce_sum")
add_count = jax.jit(Count.plus)
add_total = jax.jit(Total.plus)


def count_of(number: int) -> Count:
    return Count(jnp.uint32(number >> 32), jnp.uint32(number % 2**32))


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**13), st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_counts_are_exact(start, more):
    count, expected = count_of(start), start
    for number in more:
        count, expected = add_count(count, np.uint32(number)), expected + number
    assert count.exact() == expected


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**12), st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=50))
def test_sums_have_twice_the_digits(start, more):
    total = add_total(add_total(Total.zero(), np.float32(start)), np.float32(start - int(np.float32(start))))
    expected = Fraction(start)
    for number in more:
        total, expected = add_total(total, np.float32(number)), expected + Fraction(number)
    assert abs(Fraction(float(total.exact())) - expected) <= expected * Fraction(1, 2**44)


def test_a_sum_of_ones_does_not_stand_still():
    """float32 stops at 2^24."""
    total = Total(jnp.float32(2**24), jnp.float32(0))
    after = jax.jit(lambda total: jax.lax.fori_loop(0, 1000, lambda _, t: t.plus(jnp.float32(1)), total))(total)
    assert after.exact() == 2**24 + 1000 and np.float32(2**24) + np.float32(1) == 2**24


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_shows(value):
    total = add_total(add_total(Total.zero(), np.float32(1)), np.float32(value))
    assert np.array_equal(total.exact(), value, equal_nan=True)


def test_streaming_statistics_at_a_million_million():
    """States as they are after 10^12 values: what comes then still counts, one for one."""
    counts = jax.tree.map(lambda x: x, Count(jnp.full(2, 232, jnp.uint32), jnp.full(2, 2**32 - 5, jnp.uint32)))
    before = counts.exact()
    assert (before > 10**12 - 10**9).all()
    x = np.float32([[[-0.5, 0.5, 0.5]] * 4])
    after = jax.jit(lambda x: counts.plus(statistics.histogram(x, np.ones((1, 4), bool), -1.0, 1.0, 2)))(x)
    np.testing.assert_array_equal(after.exact() - before, [4, 8])

    none = statistics.OutlierCounts.zero(width=3, length=4)
    full = jax.tree.map(lambda x: jnp.full_like(x, 2**32 - 2), none)
    seen = exact(jax.jit(statistics.OutlierCounts.plus)(full, x, np.ones((1, 4), bool)))
    np.testing.assert_array_equal(seen.tokens_at_position - exact(full).tokens_at_position, [1, 1, 1, 1])

    so_far = Total(jnp.float32(2.0), jnp.float32(0)), Total(jnp.float32(1e12), jnp.float32(0))
    state, update = statistics.WeightedMean(*so_far), jax.jit(statistics.WeightedMean.plus)
    weight = state.weight.exact()
    for _ in range(50):
        state = update(state, np.full(1000, 3.0, np.float32), np.ones(1000, np.float32))
    assert state.weight.exact() - weight == 50_000
    # (2e12 + 3 * 50,000) / (1e12 + 50,000): float32's next number after 2 is 2.4e-7 away.
    assert state.mean.exact() - 2.0 == pytest.approx(50_000 / 1e12, rel=1e-3)


def test_one_large_batch_fits():
    """512 sequences of 512 tokens, 8192 wide: beyond int32, within what one batch may add."""
    values = 512 * 512 * 8192
    assert 2**31 <= values < 2**32
    assert add_count(count_of(10**12), np.uint32(values)).exact() == 10**12 + values


def test_what_a_batch_adds_up_is_of_32_bits_without_a_sign():
    """A batch beyond int32 takes gigabytes: the types of the sums that are made of one are looked at instead."""
    x, mask = np.zeros((2, 4, 3), np.float32), np.ones((2, 4), bool)
    none = statistics.OutlierCounts.zero(width=3, length=4)
    for count in (lambda x, mask: statistics.histogram(x, mask, -1.0, 1.0, 5), none.plus):
        program = jax.make_jaxpr(count)(x, mask)
        # Over samples: within one there are few enough, of which `is_outlier` counts the real values in int32.
        over_samples = [e for e in program.eqns if e.primitive.name in ADDING and e.outvars[0].aval.shape[:1] != (2,)]
        made = [equation.outvars[0].aval.dtype for equation in over_samples]
        assert made and jnp.int32 not in made
