"""A prefix is what its tokens would be before the text: keys and values that stand there already."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from qtx import anatomy
from qtx.analysis.capture import FloatingPoint
from qtx.anatomy import Role
from qtx.families import build
from qtx.masks import Mask
from qtx.models import LlamaConfig
from qtx.pipeline.generate import continued
from qtx.quantization import QuantizationConfig, calibrate
from qtx.quantization.plan import quantizers_of
from qtx.training.relief import ReliefConfig, relieved

SHAPE = dict(num_layers=3, width=16, num_heads=4, num_kv_heads=2, mlp_width=24, vocab_size=23, max_length=12)
KINDS = {
    "llama": {},
    "normed heads, shared positions": {"qk_norm": True, "rotary_share": 0.5, "unrotated_layers": (1,)},
    "scaled positions": {"rotary_scaling": "yarn,factor=4,original=8", "norm_offset": 1.0},
    "biases and heads of a size": {"attention_bias": True, "head_dim": 6, "tied": False, "score_cap": 2.0},
}
TOKENS = np.random.default_rng(0).integers(0, 23, (2, 9)).astype(np.int32)


def made(options, tokens=(5, 17)):
    original = build(LlamaConfig(**SHAPE, init_std=0.4, rotary_base=50.0, **options))
    params = original.init(jax.random.key(0), {"tokens": TOKENS})["params"]
    params = jax.tree.map(jnp.asarray, jax.tree.map(lambda x: getattr(x, "value", x), params, is_leaf=_boxed))
    module = build(dataclasses.replace(original.config, prefix=len(tokens)))
    return original, params, module, relieved(ReliefConfig(tokens), module, original, params)


def _boxed(x):
    return hasattr(x, "value")


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_after_a_prefix_is_that_after_the_tokens_themselves(kind):
    tokens = (5, 17)
    original, params, module, changed = made(KINDS[kind], tokens)
    before = np.broadcast_to(np.array(tokens, np.int32), (2, 2))
    with jax.default_matmul_precision("highest"):
        whole = original.apply({"params": params}, {"tokens": np.concatenate([before, TOKENS], axis=1)})[:, 2:]
        found = module.apply({"params": changed}, {"tokens": TOKENS})
        alone = original.apply({"params": params}, {"tokens": TOKENS})
    np.testing.assert_allclose(found, whole, rtol=0, atol=2e-5 * np.abs(whole).max())
    assert np.abs(alone - whole).max() > 0.1 * np.abs(whole).max()


def test_every_query_sees_the_prefix_whatever_its_window_its_padding_and_its_document():
    mask = Mask(
        3,
        causal=True,
        keys=5,
        offset=2,
        prefix=2,
        window=1,
        padding=jnp.array([[True, True, True], [False, True, True]]),
        segments=jnp.array([[0, 0, 1], [0, 0, 0]]),
    )
    own = np.eye(3, dtype=bool)
    expected = np.stack([np.concatenate([np.ones((3, 2), bool), seen], axis=1) for seen in (own, own)])
    expected[1, 0, 2] = False  # its own key is padding
    np.testing.assert_array_equal(mask.dense()[:, 0], expected)
    for query in range(3):
        block = mask.block(query, 1, 0, 8, ragged=True)
        np.testing.assert_array_equal(block[:, 0, :, :5], expected[:, query : query + 1])
        assert not block[..., 5:].any()
    np.testing.assert_array_equal(mask.visible()[:, 0, :, 0], expected.sum(-1))


def test_padding_and_documents_do_not_hide_the_prefix_in_a_model():
    """A text's first token sees itself and the prefix, wherever padding or another document stands."""
    _, _, module, changed = made({})
    mask = np.array([[True] * 9, [True] * 5 + [False] * 4])
    whole = module.apply({"params": changed}, {"tokens": TOKENS})
    padded = module.apply({"params": changed}, {"tokens": TOKENS, "mask": mask})
    np.testing.assert_allclose(padded[1, :5], whole[1, :5], rtol=0, atol=1e-5)
    segments = np.array([[0] * 9, [0] * 4 + [1] * 5])
    apart = module.apply({"params": changed}, {"tokens": TOKENS, "segments": segments})
    np.testing.assert_allclose(apart[1, :4], whole[1, :4], rtol=0, atol=1e-5)


def test_a_prefix_stays_in_floating_point_outside_of_all_ranges():
    _, _, module, changed = made({})
    described = anatomy.read(module, {"tokens": TOKENS})
    prefix = [path for path, one in described.parameters.items() if one.role is Role.PREFIX]
    assert sorted(prefix) == ["layers/attention/prefix/key", "layers/attention/prefix/value"]
    rules = QuantizationConfig(recipe="strict", weight_estimator="minmax").make_recipe("w8a8", module.config)
    assert not set(prefix) & quantizers_of(described, rules)[0].keys()
    flat = dict(traverse_util.flatten_dict(changed, sep="/"))
    flat["layers/attention/prefix/value"] = flat["layers/attention/prefix/value"] + 100.0
    huge = traverse_util.unflatten_dict(flat, sep="/")
    ranges = [
        calibrate(module, params, rules, [{"tokens": TOKENS}], 1).activation_ranges["layers/attention/value"]
        for params in (changed, huge)
    ]
    # Values of the first layer's own tokens are what they were: the prefix is beside them.
    np.testing.assert_array_equal(ranges[0]["maximum"][0], ranges[1]["maximum"][0])


def test_text_goes_on_behind_a_prefix_with_cached_keys_as_without():
    _, _, module, changed = made({"window": 4, "global_layers": (1,)})
    model, text = FloatingPoint(module, changed), [3, 11, 7]
    found = continued(model, text, 6)
    expected = list(text)
    for _ in range(6):
        logits = module.apply({"params": changed}, {"tokens": np.array([expected], np.int32)})
        expected.append(int(logits[0, -1].argmax()))
    assert [*text, *found] == expected
