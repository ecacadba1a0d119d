"""The checkpoints of GPT-2 (Radford et al. 2019) and DistilGPT2, which are pre-LN OPTs with other names and GELU.

Their layers are `Conv1D`s, whose weights are `[in, out]` as ours. Their positions have no rows for padding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from qtx.families.checkpoint import Checkpoint, Field
from qtx.families.stock import Stock
from qtx.families.weights import SAME, Layout, Weight, layer_norm_weights, packed_weights
from qtx.models import OptConfig
from qtx.models.opt import POSITION_OFFSET

LAYER = "transformer.h.{layer}"
# [positions, width] <-> [rows of padding + positions, width]
POSITIONS = Layout(lambda x: np.pad(x, ((POSITION_OFFSET, 0), (0, 0))), lambda x: x[POSITION_OFFSET:])


def conv1d_weights(name: str, outputs: Mapping[str, int]) -> list[Weight]:
    """Returns the rows of one Conv1D, weight `[in, out]` and bias; see `packed_weights` for `outputs`."""
    return [dataclasses.replace(row, layout=SAME) for row in packed_weights(name, outputs)]


def weights(config: OptConfig) -> list[Weight]:
    """Returns the table of weights; queries, keys and values are the thirds of one tensor."""
    thirds = {f"layers/attention/{third}": config.width for third in ("query", "key", "value")}
    return [
        Weight("transformer.wte.weight", "embeddings/words/embedding"),
        Weight("transformer.wpe.weight", "embeddings/positions/embedding", POSITIONS),
        *layer_norm_weights(f"{LAYER}.ln_1", "layers/attention_norm"),
        *conv1d_weights(f"{LAYER}.attn.c_attn", thirds),
        *conv1d_weights(f"{LAYER}.attn.c_proj", {"layers/attention/out": config.width}),
        *layer_norm_weights(f"{LAYER}.ln_2", "layers/mlp_norm"),
        *conv1d_weights(f"{LAYER}.mlp.c_fc", {"layers/mlp/in": config.mlp_width}),
        *conv1d_weights(f"{LAYER}.mlp.c_proj", {"layers/mlp/out": config.width}),
        *layer_norm_weights("transformer.ln_f", "final_norm"),
    ]


def options(values: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """Returns a config.json's values with the width of the feed-forward networks, if that is left out."""
    return {"n_inner": 4 * values["n_embd"], **values} if "n_embd" in values else values


CHECKPOINT = Checkpoint(
    model_types={"gpt2": "GPT2"},
    architectures={"LMHeadModel": {}, "Model": {}},
    fields={
        "vocab_size": Field("vocab_size"),
        "n_embd": Field("width"),
        "n_layer": Field("num_layers"),
        "n_head": Field("num_heads"),
        "n_inner": Field("mlp_width"),
        "n_positions": Field("max_length"),
        "resid_pdrop": Field("dropout", 0.1),
        "attn_pdrop": Field("attention_dropout", 0.1),
        "initializer_range": Field("init_std", 0.02),
        "layer_norm_epsilon": Field("layer_norm_epsilon", 1e-5),
        "activation_function": Field("activation", "gelu_new"),
    },
    supported={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    attention_prefix=f"{LAYER}.attn",
    weights=weights,
    prefix="transformer.",
    modules=("wte.", "wpe.", "h.", "ln_f."),
    tied={"lm_head.weight": "transformer.wte.weight"},
    buffers=("transformer.h.*.attn.bias", "transformer.h.*.attn.masked_bias"),
    options=options,
    stock=Stock(
        attention="Attention",
        made="config, layer_idx=index",
        layers="h",
        place="attn",
        projections=("c_attn",),
        out="c_proj",
        then="self.resid_dropout({})",
        dropout="self.attn_dropout.p",
        classes=("Model", "LMHeadModel"),
        cached=True,
    ),
)
