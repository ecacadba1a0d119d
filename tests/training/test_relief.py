"""Relief changes the parameters that a decoder starts from: scaled hidden units, and what is refused."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.models import LlamaConfig, OptConfig
from qtx.sites import capture
from qtx.training.relief import ReliefConfig, relieved, with_sinks

SHAPE = dict(num_layers=2, width=12, num_heads=2, mlp_width=10, vocab_size=17, max_length=8, init_std=0.4)
CONFIGS = {"gated": LlamaConfig(**SHAPE, num_kv_heads=1), "ReLU": OptConfig(**SHAPE, dropout=0.0)}
BATCH = {"tokens": np.random.default_rng(1).integers(0, 17, (2, 7)).astype(np.int32)}


def made(name):
    module = build(CONFIGS[name])
    params = module.init(jax.random.key(3), BATCH)["params"]
    return module, jax.tree.map(lambda x: getattr(x, "value", x), params, is_leaf=lambda x: hasattr(x, "value"))


def run(module, params):
    sites = ("layers/mlp/hidden", "layers/mlp/out")
    return jax.jit(lambda params: capture(module.apply, sites, {"params": params}, BATCH)[1])(params)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_unit_adds_to_the_stream_is_multiplied_and_nothing_else(name):
    module, params = made(name)
    before = run(module, params)
    after = run(module, relieved(ReliefConfig(units=("0:4=0.25",)), module, module, params))
    kernel = traverse_util.flatten_dict(params, sep="/")["layers/mlp/out/kernel"][0, 4]
    lost = 0.75 * before["layers/mlp/hidden"][0, ..., 4, None] * kernel
    expected = before["layers/mlp/out"][0] - lost
    np.testing.assert_allclose(after["layers/mlp/out"][0], expected, rtol=0, atol=1e-5)
    assert float(jnp.abs(lost).max()) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("family", CONFIGS)
def test_sinks_begin_at_the_mean_score_of_the_first_token(family):
    """Scores by the products of queries and keys, text by text, padding left out."""
    original, trained = made(family)
    params = jax.tree.map(lambda x: x, trained)
    params["layers"]["attention"]["normalizer"] = {"sinks": jnp.zeros((2, 2))}
    mask = np.ones((2, 7), np.int32)
    mask[1, 4:] = 0
    batches = [{**BATCH, "mask": mask}, {"tokens": BATCH["tokens"][:1, ::-1].copy()}]
    found = with_sinks(params, original, batches)["layers"]["attention"]["normalizer"]["sinks"]
    turned = "rotated_" if family == "gated" else ""
    collected = [[[], []], [[], []]]
    for batch in batches:
        sites = tuple(f"layers/attention/{turned}{name}" for name in ("query", "key"))
        captured = capture(original.apply, sites, {"params": trained}, batch)[1]
        query, key = (
            np.asarray(captured[site], np.float64).reshape(2, len(batch["tokens"]), 7, -1, 6) for site in sites
        )
        for layer, head, text in itertools.product(range(2), range(2), range(len(batch["tokens"]))):
            first = key[layer, text, 0, head % key.shape[3]]
            real = int(batch["mask"][text].sum()) if "mask" in batch else 7
            collected[layer][head] += list(query[layer, text, 1:real, head] @ first / np.sqrt(6))
    expected = [[np.mean(scores) for scores in heads] for heads in collected]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected).max() > 1e-3


def test_units_that_there_are_not_are_refused():
    module, params = made("gated")
    for units, says in ((("2:0=0.1",), "units have 2:0: the model has layers up to 1"), (("0:10=0.1",), "up to 9")):
        with pytest.raises(QtxError, match=says):
            relieved(ReliefConfig(units=units), module, module, params)
    with pytest.raises(QtxError, match=r"the prefix \(17,\) has tokens that a vocabulary of 17 does not have"):
        relieved(ReliefConfig(prefix=(17,)), module, module, params)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"units": ("2-90",)}, "units have '2-90': expected LAYER:UNIT=FACTOR"),
        ({"units": ("1:2=0.1", "1:2=0.2")}, "each may be named once"),
        ({"prefix": (-1,)}, "prefix is .-1,.: expected numbers of tokens"),
    ],
)
def test_what_is_no_relief_is_refused(options, says):
    with pytest.raises(QtxError, match=says):
        ReliefConfig(**options)
