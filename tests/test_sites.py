"""Acting on a model's named tensors, and knowing whether anything does."""

from __future__ import annotations

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from qtx.analysis.capture import FloatingPoint
from qtx.analysis.metrics import attention_health
from qtx.attention import VARIANTS, MultiHeadAttention
from qtx.foundation.errors import QtxError
from qtx.masks import Mask
from qtx.models import Opt, OptConfig
from qtx.quantization import QuantizationConfig, Recipe, Rule, calibrate
from qtx.quantization.integer import convert
from qtx.sites import Site, capture, on_sites, site_shapes, watched, watching

SHAPE = dict(num_layers=2, width=16, num_heads=2, mlp_width=32, vocab_size=11, max_length=8, init_std=0.3)
BATCH = {"tokens": jnp.arange(16).reshape(2, 8) % 11, "labels": jnp.zeros((2, 8), int), "weights": jnp.ones((2, 8))}


SEEN: list[bool] = []


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        SEEN.append(watched(self, "scores", "probs"))
        return Site(name="out")(2 * Site(name="probs")(x))


class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Inner(name="inner")(x)


def nothing(module, path, y, mask):
    return y


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (contextlib.nullcontext, False),
        (lambda: on_sites(nothing), True),
        (lambda: on_sites(nothing, {"inner/probs"}), True),
        (lambda: on_sites(nothing, {"inner/out", "probs", "inner"}), False),
        (lambda: watching(lambda path: path.endswith("scores")), True),
        (lambda: watching(lambda path: False), False),
    ],
)
def test_watched_says_what_is_read(context, expected):
    SEEN.clear()
    with context():
        Outer().apply({}, 1.0)
    assert SEEN == [expected]
    Outer().apply({}, 1.0)
    assert SEEN == [expected, False], "it forgets what is over"


def test_a_captured_model_is_watched_and_its_sites_have_a_layer_axis():
    SEEN.clear()
    y, values = capture(Outer().apply, {"inner/probs"}, {}, jnp.float32(3))
    assert SEEN == [True]
    assert (y, values.keys()) == (6.0, {"inner/probs"})
    assert values["inner/probs"].shape == (1,)


def test_a_site_that_runs_twice_is_refused_when_captured():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            site = Site(name="site")
            return site(x) + site(2 * x)

    assert capture(Twice().apply, {"other"}, {}, 1.0) == (3.0, {})
    with pytest.raises(QtxError, match="site 'site' runs 2 times in one forward pass"):
        capture(Twice().apply, {"site"}, {}, 1.0)


@pytest.fixture(scope="module")
def model():
    module = Opt(OptConfig(**SHAPE, attention=VARIANTS["softmax"]))
    return module, nn.unbox(module.init(jax.random.key(0), BATCH)["params"])


@pytest.fixture
def asked():
    """What an attention layer would learn by asking whether its scores or probabilities are read."""
    answers: list[bool] = []

    def interceptor(next_function, args, kwargs, context):
        if isinstance(context.module, MultiHeadAttention) and context.method_name == "__call__":
            answers.append(watched(context.module, "scores", "probs"))
        return next_function(*args, **kwargs)

    jax.clear_caches()
    with nn.intercept_methods(interceptor):
        yield answers
    jax.clear_caches()


def quantized(module, params, *left):
    """The model, with the sites that `left` names in floating point."""
    recipe = QuantizationConfig(recipe="paper_opt").make_recipe("w8a8", module.config)
    rules = tuple(Rule(path, None) for path in left)
    return calibrate(module, params, Recipe(recipe.weights, (*rules, *recipe.activations)), [BATCH], 1)


@pytest.mark.long
def test_everything_that_reads_the_probabilities_says_so(model, asked):
    module, params = model
    FloatingPoint(module, params).apply(BATCH)
    assert asked and not any(asked)
    asked.clear()

    whole = quantized(module, params)
    assert asked and all(asked), "calibration"
    without = quantized(module, params, "layers/attention/scores", "layers/attention/probs")
    for read, run in (
        (True, lambda: whole.apply(BATCH)),
        (False, lambda: without.apply(BATCH)),
        (True, lambda: convert(whole).apply(BATCH)),
        (True, lambda: attention_health(module, params, BATCH)),
        (True, lambda: site_shapes(module, params, BATCH)),
    ):
        asked.clear()
        run()
        assert asked and set(asked) == {read}


def test_a_mask_is_seen_however_it_is_given():
    seen = {}

    class Masked(nn.Module):
        @nn.compact
        def __call__(self, x):
            mask = Mask(2, causal=True)
            return Site(name="named")(Site(name="placed")(x, mask), mask=mask)

    with on_sites(lambda site, path, y, mask: seen.setdefault(path, mask) and y):
        Masked().apply({}, jnp.ones((1, 1, 2, 2)))
    assert seen == {"placed": Mask(2, causal=True), "named": Mask(2, causal=True)}
