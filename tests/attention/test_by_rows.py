"""Attention by blocks of whole rows against the naive way in float64, for every normalizer; its memory and dropout."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.attention import Rows, attention_variant
from qtx.attention.fused import BACKENDS, by_rows, chosen
from qtx.masks import Mask
from tests.attention.test_fused import (
    MASKS,
    B,
    H,
    T,
    as_floats,
    assert_close,
    case,
    dense,
    inputs,
    values_and_gradients,
)
from tests.mechanisms import MECHANISMS

NORMALIZERS = {name: a.normalizer.trained_at(T) for name, a in MECHANISMS.items() if a.gate is None}
ROWS = {"8": B * H * T * 8, "all": 2**21}
CASES = list(itertools.product(NORMALIZERS, MASKS, ROWS))[::3]


@pytest.mark.slow
@pytest.mark.parametrize("name, mask, rows", CASES, ids=[", ".join(case) for case in CASES])
def test_equals_the_naive_way_in_float64(name, mask, rows, monkeypatch):
    monkeypatch.setattr(by_rows, "VALUES", ROWS[rows])
    normalizer, seen = NORMALIZERS[name], Rows(MASKS[mask], jnp.int32(5))
    given = inputs(normalizer)
    with jax.enable_x64(True):
        reference = lambda *args: dense(normalizer, seen, *args)  # noqa: E731
        expected = jax.tree.map(np.asarray, values_and_gradients(reference, *as_floats(jnp.float64, *given)))
    of_mask = case(normalizer)._replace(mask=MASKS[mask], shape=(B, T, H, 8))
    fused = lambda *args: BACKENDS["by_rows"](of_mask, *args, seen, None)  # noqa: E731
    with jax.default_matmul_precision("highest"):
        found = jax.jit(lambda *args: values_and_gradients(fused, *args))(*as_floats(jnp.float32, *given))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["softpick", "sigmoid"])
def test_memory_is_linear_in_the_length(name):
    normalizer = NORMALIZERS[name]

    def bytes_needed(length, function):
        shapes = [jax.ShapeDtypeStruct((1, length, 2, 64), jnp.float32) for _ in range(4)]
        compiled = jax.jit(lambda *x: values_and_gradients(function(length), {}, *x)).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    def fused(length):
        of_length = case(normalizer, length, causal=True)
        return lambda *args: BACKENDS["by_rows"](of_length, *args, Rows(of_length.mask), None)

    naive = lambda length: lambda *args: dense(normalizer, Rows(Mask(length, causal=True)), *args)  # noqa: E731
    needed = {length: bytes_needed(length, fused) for length in (4096, 16384)}
    assert needed[16384] < 4.1 * needed[4096]
    assert needed[16384] < bytes_needed(4096, naive) / 2


def test_dropout_leaves_its_share_and_the_mean():
    length, rate = 256, 0.25
    normalizer = attention_variant("relu").normalizer
    of_rate = case(normalizer, length)._replace(dropout=rate)
    query, key, value = jnp.ones((1, length, 2, 8)), jnp.full((1, length, 2, 8), 1 / 8), jnp.ones((1, length, 2, 8))
    out = BACKENDS["by_rows"](of_rate, {}, query, key, value, Rows(Mask(length)), jax.random.key(0))
    # A row's sum of 256 draws, each 0 or 4/3 of 1/256: the standard deviation is .0361.
    assert abs(float(out.mean()) - 1) < 4 * 0.0361 / np.sqrt(2 * length)
    assert 0.029 < float(out[..., 0].std()) < 0.043


@pytest.mark.slow
def test_gradients_see_the_same_draws_as_values():
    """The context is linear in the values: its gradient by them, times them, is what it was."""
    of_rate = case(attention_variant("softpick").normalizer, 64)._replace(dropout=0.4)
    query, key, value = (jax.random.normal(jax.random.key(i), (2, 64, 3, 8)) for i in range(3))

    def summed(value):
        return BACKENDS["by_rows"](of_rate, {}, query, key, value, Rows(Mask(64)), jax.random.key(9)).sum()

    total, slope = jax.value_and_grad(summed)(value)
    np.testing.assert_allclose((slope * value).sum(), total, rtol=1e-4)


def test_auto_takes_it_for_what_is_not_softmax_like():
    softpick = attention_variant("softpick").normalizer
    assert chosen("auto", case(softpick, 1024), watched=False) is BACKENDS["by_rows"]
    assert chosen("auto", case(softpick, 512), watched=False) is None
    assert chosen("auto", case(length=1024), watched=False) is BACKENDS["blockwise"]
