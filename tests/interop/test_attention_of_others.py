"""Sinks and Qwen's gates against the attention layers of `transformers` that have them."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.attention import VARIANTS, AttentionSpec, MultiHeadAttention, Rows
from qtx.masks import Mask

try:
    import torch
    from transformers import GptOssConfig, Lfm3Config, Qwen3NextConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssAttention
    from transformers.models.lfm3.modeling_lfm3 import Lfm3Attention
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextAttention
except ImportError as error:
    if os.environ.get("QTX_REQUIRE_TRANSFORMERS"):
        raise
    pytest.skip(f"needs torch and transformers (pip install qtx[hf]): {error}", allow_module_level=True)

B, T, H, D = 2, 7, 4, 8
SHAPE = {"hidden_size": H * D, "num_attention_heads": H, "num_key_value_heads": H, "head_dim": D, "vocab_size": 11}
SHAPE |= {"num_hidden_layers": 1, "intermediate_size": 16, "attention_bias": True, "attention_dropout": 0.0}


def gpt_oss():
    return GptOssAttention(GptOssConfig(**SHAPE, layer_types=["full_attention"]), 0)


def lfm3():
    return Lfm3Attention(Lfm3Config(**SHAPE, use_attention_gate=True, layer_types=["full_attention"]), 0)


def qwen3_next():
    return Qwen3NextAttention(Qwen3NextConfig(**SHAPE, layer_types=["full_attention"]), 0)


def parameters_of(theirs):
    """Their weights as qtx's parameters."""

    def dense(name):
        layer = getattr(theirs, name)
        bias = {} if layer.bias is None else {"bias": layer.bias.detach().numpy()}
        return {"kernel": layer.weight.detach().numpy().T} | bias

    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
    params = {ours: dense(name) for ours, name in names.items()}
    if hasattr(theirs, "sinks"):
        params["normalizer"] = {"sinks": theirs.sinks.detach().numpy()}
    if hasattr(theirs, "g_proj"):
        params["gate_predictor"] = dense("g_proj")
    if isinstance(theirs, Qwen3NextAttention):  # rows of a head's query, then of its gate
        both = {name: x.reshape(*x.shape[:-1], H, 2, D) for name, x in params["query"].items()}
        query, gate = ({name: x[..., i, :].reshape(*x.shape[:-3], -1) for name, x in both.items()} for i in (0, 1))
        params["query"], params["gate_predictor"] = query, {"kernel": gate["kernel"]}
        with torch.no_grad():  # qtx's gate has no bias
            theirs.q_proj.bias.reshape(H, 2, D)[:, 1] = 0
    return params


@pytest.mark.parametrize(
    "make, variant", [(gpt_oss, "sink"), (lfm3, "gated_headwise"), (qwen3_next, "gated_elementwise")]
)
def test_computes_what_transformers_does(make, variant):
    torch.manual_seed(0)
    theirs = make().eval()
    theirs.config._attn_implementation = "eager"
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.4)
    for name in ("q_norm", "k_norm"):  # qtx has none
        if hasattr(theirs, name):
            setattr(theirs, name, torch.nn.Identity())
    x = torch.randn(B, T, H * D)
    rotary = torch.ones(B, T, D), torch.zeros(B, T, D)  # no rotation
    if make is gpt_oss:
        rotary = tuple(half[..., : D // 2] for half in rotary)
    params = parameters_of(theirs)
    hidden = torch.full((T, T), torch.finfo(torch.float32).min).triu(1)[None, None]
    expected = theirs(x, rotary, hidden)[0].detach().numpy()
    module = MultiHeadAttention(AttentionSpec(H, VARIANTS[variant]), True)
    found = module.apply(
        {"params": jax.tree.map(jnp.asarray, params)}, jnp.asarray(x.numpy()), Rows(Mask(T, causal=True))
    )
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
