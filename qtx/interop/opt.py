"""OPTForCausalLM, the pre-LN kind."""

from __future__ import annotations

import numpy as np

from qtx.interop.family import Family
from qtx.interop.weights import Weight, dense, layer_norm

LAYER = "model.decoder.layers.{layer}"

WEIGHTS = [
    Weight("model.decoder.embed_tokens.weight", "embeddings/words/embedding"),
    Weight("model.decoder.embed_positions.weight", "embeddings/positions/embedding"),
    *dense(f"{LAYER}.self_attn.q_proj", "layers/attention/query"),
    *dense(f"{LAYER}.self_attn.k_proj", "layers/attention/key"),
    *dense(f"{LAYER}.self_attn.v_proj", "layers/attention/value"),
    *dense(f"{LAYER}.self_attn.out_proj", "layers/attention/out"),
    *layer_norm(f"{LAYER}.self_attn_layer_norm", "layers/attention_norm"),
    *dense(f"{LAYER}.fc1", "layers/mlp/in"),
    *dense(f"{LAYER}.fc2", "layers/mlp/out"),
    *layer_norm(f"{LAYER}.final_layer_norm", "layers/mlp_norm"),
    *layer_norm("model.decoder.final_layer_norm", "final_norm"),
]

OPT = Family(
    architecture="OPTForCausalLM",
    fields={
        "vocab_size": "vocab_size",
        "hidden_size": "width",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "ffn_dim": "mlp_width",
        "max_position_embeddings": "max_length",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "init_std": "init_std",
        "word_embed_proj_dim": "width",
    },
    defaults={"dropout": 0.1, "attention_dropout": 0.0, "init_std": 0.02},
    supported={
        "activation_function": "relu",
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
        "tie_word_embeddings": True,
    },
    attention_prefix=f"{LAYER}.self_attn",
    weights=lambda config: WEIGHTS,
    tied={"lm_head.weight": "model.decoder.embed_tokens.weight"},
    example=lambda config: {"tokens": np.zeros((1, 1), np.int32)},
)
