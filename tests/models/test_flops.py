"""Model FLOPs against what XLA counts in the compiled forward and backward pass."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from qtx.attention import VARIANTS
from qtx.families import FAMILIES, build
from qtx.models import BertConfig, LlamaConfig, ModernBertConfig, OptConfig, RotaryBertConfig, VitConfig
from qtx.models.flops import step_flops

# Wide enough that matrix products outweigh the elementwise work, which XLA counts too. One layer: XLA counts the body
# of the scan over layers once, however often it runs.
SHAPE = dict(num_layers=1, width=256, num_heads=4, mlp_width=1024, dropout=0.0, attention_dropout=0.0)
CONFIGS = {
    "bert": BertConfig(**SHAPE, vocab_size=3000, max_length=64),
    "modern_bert": ModernBertConfig(**SHAPE, vocab_size=3000, max_length=64),
    "rotary_bert": RotaryBertConfig(**SHAPE, vocab_size=3000, max_length=64),
    "opt": OptConfig(**SHAPE, vocab_size=3000, max_length=64),
    "llama": LlamaConfig(**SHAPE, vocab_size=3000, max_length=64, num_kv_heads=2, head_dim=96, tied=False),
    "vit": VitConfig(**SHAPE, image_size=32, channels=3, num_classes=100, patch_size=4),
}
TOKENS = jax.ShapeDtypeStruct((4, 64), np.int32)
OF_BERTS = {"tokens": TOKENS, "positions": jax.ShapeDtypeStruct((4, 10), np.int32)}
BATCHES = {
    **dict.fromkeys(("bert", "modern_bert", "rotary_bert"), OF_BERTS),
    **dict.fromkeys(("opt", "llama"), {"tokens": TOKENS}),
    "vit": {"images": jax.ShapeDtypeStruct((4, 32, 32, 3), np.float32)},
}


def compiled_flops(config, batch) -> float:
    """XLA's count for the gradient of a loss that needs every logit."""
    module = build(config)
    params = jax.eval_shape(module.init, jax.random.key(0), batch)["params"]
    gradient = jax.jit(
        jax.grad(lambda params, batch: jax.nn.logsumexp(module.apply({"params": params}, batch), -1).sum())
    )
    return gradient.lower(params, batch).compile().cost_analysis()["flops"]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_xla(family):
    flops = compiled_flops(CONFIGS[family], BATCHES[family])
    assert step_flops(build(CONFIGS[family]), BATCHES[family]) == pytest.approx(flops, rel=0.05)


@pytest.mark.slow
def test_projected_embeddings_agree_with_xla():
    config = dataclasses.replace(CONFIGS["opt"], embedding_width=128)
    assert step_flops(build(config), BATCHES["opt"]) == pytest.approx(compiled_flops(config, BATCHES["opt"]), rel=0.05)


@pytest.mark.slow
# "none" is left out: XLA removes its scores, since nothing uses them.
@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant != "none"])
def test_every_variant_agrees_with_xla(variant):
    config = dataclasses.replace(CONFIGS["opt"], attention=VARIANTS[variant].trained_at(8))
    assert step_flops(build(config), BATCHES["opt"]) == pytest.approx(compiled_flops(config, BATCHES["opt"]), rel=0.05)


def test_a_known_value():
    """BERT-base on 128 tokens: 6 FLOPs per matrix parameter and token, plus attention's products."""
    config = BertConfig(vocab_size=30522)
    batch = {"tokens": np.zeros((1, 128), int), "positions": np.zeros((1, 20), int)}
    blocks = 6 * 128 * 12 * (4 * 768**2 + 2 * 768 * 3072) + 12 * 12 * 128**2 * 768
    assert step_flops(build(config), batch) == blocks + 6 * 20 * (768**2 + 768 * 30522)
