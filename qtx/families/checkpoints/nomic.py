"""The checkpoints of Nomic's BERT, with the keys of transformers, or those of the files on the hub, as of GPT-2."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from qtx.families.checkpoint import Field, shown_head
from qtx.families.checkpoints import bert
from qtx.families.checkpoints.roberta import without
from qtx.families.rope import flat_rope
from qtx.families.stock import Stock
from qtx.families.weights import Weight, dense_weights, layer_norm_weights, packed_weights
from qtx.foundation.errors import QtxError
from qtx.models import RotaryBertConfig

NAME = "nomic_bert"
LAYER = f"{NAME}.encoder.layers.{{layer}}"
HUB_KEYS = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "rotary_emb_base": "rope_theta",
    "resid_pdrop": "hidden_dropout_prob",
    "attn_pdrop": "attention_probs_dropout_prob",
}
HUB_ACTIVATIONS = {"swiglu": "silu", "geglu": "gelu"}
HUB_SUPPORTED = {
    "causal": False,
    "prenorm": False,
    "parallel_block": False,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "use_rms_norm": False,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}


def options(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns a config.json's values under the keys of transformers.

    Raises:
      QtxError: naming an option of the hub's files that qtx does not support.
    """
    for key, value in HUB_SUPPORTED.items():
        if values.get(key, value) != value:
            raise QtxError(f"{source}: {key} is {str(values[key])[:100]}; qtx's {NAME} supports only {value}")
    found = {new: values[key] for key, new in HUB_KEYS.items() if key in values} | dict(values)
    if "activation_function" in values:
        name = str(values["activation_function"])
        if name not in HUB_ACTIVATIONS:
            raise QtxError(f"{source}: activation_function is {name[:100]!r}; qtx has {', '.join(HUB_ACTIVATIONS)}")
        found["hidden_act"] = HUB_ACTIVATIONS[name]
    # Beyond the positions that the model was trained at, its own code scales them by the length of the text.
    if values.get("rotary_scaling_factor") is not None and "max_trained_positions" in values:
        found["max_position_embeddings"] = values["max_trained_positions"]
    width, heads, head_dim = (found.get(key) for key in ("hidden_size", "num_attention_heads", "head_dim"))
    if head_dim is not None and heads is not None and head_dim * heads != width:
        raise QtxError(f"{source}: head_dim is {head_dim}; qtx's {NAME} supports only {width} / {heads}")
    return found | flat_rope(found, source)


def encoder(config: RotaryBertConfig) -> list[Weight]:
    """Returns the rows of all below the heads; queries, keys and values are the thirds of one tensor."""
    thirds = {f"layers/attention/{third}": config.width for third in ("query", "key", "value")}
    return [
        Weight(f"{NAME}.embeddings.word_embeddings.weight", "embeddings/words/embedding"),
        Weight(f"{NAME}.embeddings.token_type_embeddings.weight", "embeddings/token_types/embedding"),
        *layer_norm_weights(f"{NAME}.emb_ln", "embeddings/norm"),
        *packed_weights(f"{LAYER}.attn.Wqkv", thirds, bias=False),
        *dense_weights(f"{LAYER}.attn.out_proj", "layers/attention/out", bias=False),
        *layer_norm_weights(f"{LAYER}.norm1", "layers/attention_norm"),
        *dense_weights(f"{LAYER}.mlp.fc11", "layers/mlp/in", bias=False),
        *dense_weights(f"{LAYER}.mlp.fc12", "layers/mlp/gate", bias=False),
        *dense_weights(f"{LAYER}.mlp.fc2", "layers/mlp/out", bias=False),
        *layer_norm_weights(f"{LAYER}.norm2", "layers/mlp_norm"),
    ]


def renamed(name: str) -> str:
    """Returns a name of BERT's heads as it is here."""
    return name.replace("bert.", f"{NAME}.", 1) if name.startswith("bert.") else name.replace("LayerNorm", "layer_norm")


OF_HEADS = {
    head: [dataclasses.replace(row, name=renamed(row.name)) for row in rows]
    for head, rows in bert.OF_HEADS.items()
    if head != "span"
}
SHOWN_BY = {tuple(map(renamed, names)): head for names, head in bert.SHOWN_BY.items() if head != "span"}
ARCHITECTURES = without(bert.CHECKPOINT.architectures, "ForPreTraining", "ForQuestionAnswering")
STOCK = Stock(
    attention="Attention",
    made="config",
    layers="layers",
    place="self_attn",
    projections=("q_proj", "k_proj", "v_proj"),
    out="o_proj",
    dropout="self.attention_dropout",
    classes=("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"),
    positions="rotary",
)

CHECKPOINT = dataclasses.replace(
    bert.CHECKPOINT,
    model_types={NAME: "NomicBert"},
    architectures=ARCHITECTURES,
    fields={
        **bert.CHECKPOINT.fields,
        "hidden_dropout_prob": Field("dropout", 0.0),
        "attention_probs_dropout_prob": Field("attention_dropout", 0.0),
        "hidden_act": Field("activation", "silu"),
        "rope_theta": Field("rotary_base", 1000.0),
    },
    supported={"tie_word_embeddings": True},
    fixed={"attention_bias": False, "mlp_out_bias": False, "rotary_factor": 1.0},
    # As the layer is called in transformers, which renames only what the files have.
    attention_prefix=f"{LAYER}.self_attn",
    weights=lambda config: [*encoder(config), *OF_HEADS[config.head]],
    prefix=f"{NAME}.",
    modules=("embeddings.", "emb_ln.", "encoder.", "pooler."),
    tied={copy: renamed(name) for copy, name in bert.CHECKPOINT.tied.items()},
    unused=(f"{NAME}.pooler.",),
    shown_by_weights=partial(shown_head, heads=SHOWN_BY),
    options=options,
    stock=STOCK,
)
