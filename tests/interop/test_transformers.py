"""The same model in `transformers` and in qtx, both ways through a folder on disk."""

from __future__ import annotations

import os

import jax
import numpy as np
import pytest

from qtx.families import build
from qtx.interop import load, save

try:
    import torch
    import transformers
except ImportError as error:
    if os.environ.get("QTX_REQUIRE_TRANSFORMERS"):
        raise
    pytest.skip(f"needs torch and transformers (pip install qtx[hf]): {error}", allow_module_level=True)

SHAPE = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32, "initializer_range": 0.2}
TEXT = {"vocab_size": 53, "max_position_embeddings": 20}


def vit():
    config = transformers.ViTConfig(**SHAPE, intermediate_size=48, image_size=12, patch_size=4, num_labels=7)
    images = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    theirs = {"pixel_values": torch.from_numpy(images.transpose(0, 3, 1, 2).copy())}
    return transformers.ViTForImageClassification(config), theirs, {"images": images}


def tokens_and_mask():
    tokens = np.random.default_rng(0).integers(4, 53, (2, 16)).astype(np.int32)
    mask = np.ones((2, 16), bool)
    mask[1, -5:] = False
    theirs = {"input_ids": torch.from_numpy(tokens).long(), "attention_mask": torch.from_numpy(mask).long()}
    return theirs, {"tokens": tokens, "mask": mask}


def bert():
    config = transformers.BertConfig(**SHAPE, **TEXT, intermediate_size=48)
    return transformers.BertForMaskedLM(config), *tokens_and_mask()


def opt(**options):
    shape = {k: v for k, v in SHAPE.items() if k != "initializer_range"}
    config = transformers.OPTConfig(**shape, **TEXT, init_std=0.2, ffn_dim=48, **options)
    return transformers.OPTForCausalLM(config), *tokens_and_mask()


def opt_350m():
    return opt(do_layer_norm_before=False, word_embed_proj_dim=20)


def opt_with_projections():
    return opt(word_embed_proj_dim=20)


@pytest.mark.parametrize("family", [vit, bert, opt, opt_350m, opt_with_projections])
def test_logits_equal_those_of_transformers(tmp_path, family):
    torch.manual_seed(0)
    model, their_inputs, batch = family()
    for parameter in model.parameters():
        # Biases and norms start at 0 and 1: random ones show a swapped pair.
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.tie_weights()
    model.eval().save_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        expected = model(**their_inputs).logits.numpy()

    config, params = load(tmp_path / "theirs")
    logits = np.asarray(jax.jit(build(config).apply)({"params": params}, batch))
    valid = batch.get("mask", np.ones(logits.shape[:-1], bool))
    scale = np.abs(expected[valid]).max()
    assert scale > 0.5
    np.testing.assert_allclose(logits[valid], expected[valid], rtol=0, atol=1e-4 * scale)

    save(tmp_path / "ours", config, params)
    again = type(model).from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        np.testing.assert_allclose(again(**their_inputs).logits.numpy(), expected, rtol=0, atol=1e-6 * scale)
