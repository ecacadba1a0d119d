"""The file of code of an exported checkpoint: what `transformers` computes by it is what qtx computes."""

from __future__ import annotations

import dataclasses
import json
import os
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest

from qtx.attention import GATES, NORMALIZERS, VARIANTS, AttentionConfig, attention_variant
from qtx.attention.gates import DenseGate
from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.interop import load, save
from qtx.interop.modeling import gates, normalizers
from qtx.models import BertConfig, OptConfig, VitConfig

try:
    import torch
    import transformers
    from transformers import dynamic_module_utils
except ImportError:
    if os.environ.get("QTX_REQUIRE_TRANSFORMERS"):
        raise
    torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="needs torch and transformers (pip install qtx[hf])")

SHAPE = {"num_layers": 2, "width": 12, "num_heads": 3, "mlp_width": 16, "dropout": 0.2, "attention_dropout": 0.2}
CONFIGS = {
    "bert": BertConfig(**SHAPE, vocab_size=23, max_length=9),
    "opt": OptConfig(**SHAPE, vocab_size=23, max_length=9),
    "vit": VitConfig(**SHAPE, image_size=6, patch_size=2, channels=3, num_classes=5),
}
AUTO = {"bert": "AutoModelForMaskedLM", "opt": "AutoModelForCausalLM", "vit": "AutoModelForImageClassification"}
GATED = "softmax,gate=linear,gate_scale=2"
# What options change, where it differs from family to family.
OPTIONS = {
    "one gamma": ("bert", "clipped_softmax,alpha=None,gamma=-0.1,zeta=1.1", {}),
    "annealed": ("opt", "clipped_softmax,gamma_warmup_steps=100", {}),
    "keys of a row": ("opt", "clipped_softmax_visible,alpha_visible=1.5", {}),
    "hidden units": ("vit", "gated_mlp,gate_hidden=2", {}),
    "both": ("bert", "sink,gate=all_heads_linear", {}),
    **{
        f"{read} {place} {family} {gate}": (
            family,
            f"gated_{gate},gate_scale=2,gate_input={read},gate_place={place}",
            {},
        )
        for family, read, place, gate in (
            ("bert", "residual", "values", "linear"),
            ("opt", "residual", "context", "linear"),
            ("opt", "residual", "values", "elementwise"),
            ("vit", "normed", "values", "headwise"),
            ("vit", "residual", "context", "elementwise"),
        )
    },
    "post-norm": ("opt", "gated_linear,gate_input=residual", {"pre_norm": False, "embedding_width": 4}),
    "normed patches": ("vit", "clipped_softmax", {"patch_norm": True}),
    "normed patches alone": ("vit", "softmax", {"patch_norm": True}),
}


def saved(folder, config, scale=0.5):
    """A checkpoint of random weights, no two alike: LayerNorms, biases, gates and sinks too."""
    variables = jax.eval_shape(build(config).init, jax.random.key(0), config.example())
    leaves, tree = jax.tree.flatten(nn.unbox(variables["params"]))
    rng = np.random.default_rng(0)
    params = jax.tree.unflatten(tree, [scale * rng.normal(size=x.shape).astype(np.float32) for x in leaves])
    save(folder, config, params)
    return params


def batch_of(config):
    """Theirs and ours: two examples, of texts one padded on the right and one on the left."""
    rng = np.random.default_rng(1)
    if config.reads == "images":
        images = rng.normal(size=(2, 6, 6, 3)).astype(np.float32)
        return {"pixel_values": torch.from_numpy(images.transpose(0, 3, 1, 2).copy())}, {"images": images}
    tokens, mask = rng.integers(4, 23, (3, 9)).astype(np.int32), np.ones((3, 9), bool)
    mask[1, -3:] = mask[2, :2] = False
    theirs = {"input_ids": torch.from_numpy(tokens).long(), "attention_mask": torch.from_numpy(mask).long()}
    return theirs, {"tokens": tokens, "mask": mask}


@pytest.fixture
def in_torch(tmp_path, monkeypatch):
    """Loads a folder by an Auto class, code and all; every weight finds its place."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])

    def from_pretrained(folder, auto):
        model, info = getattr(transformers, auto).from_pretrained(
            folder, trust_remote_code=True, output_loading_info=True
        )
        assert not any(info.values())
        return model.eval()

    return from_pretrained


def assert_equal_logits(model, config, params):
    theirs, ours = batch_of(config)
    expected = np.asarray(jax.jit(build(config).apply)({"params": params}, ours))
    with torch.no_grad():
        found = model(**theirs).logits.numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    return found


@needs_torch
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "softmax"])
@pytest.mark.parametrize("family", CONFIGS)
def test_every_variant_is_the_same_in_pytorch(tmp_path, in_torch, family, variant):
    config = dataclasses.replace(CONFIGS[family], attention=VARIANTS[variant])
    params = saved(tmp_path / "model", config)
    assert_equal_logits(in_torch(tmp_path / "model", AUTO[family]), config, params)


@needs_torch
@pytest.mark.parametrize("case", OPTIONS)
def test_options_are_honoured(tmp_path, in_torch, case):
    family, variant, options = OPTIONS[case]
    config = dataclasses.replace(CONFIGS[family], attention=attention_variant(variant), **options)
    params = saved(tmp_path / "model", config)
    assert_equal_logits(in_torch(tmp_path / "model", AUTO[family]), config, params)
