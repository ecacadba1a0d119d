"""The checkpoints of GTE, of model type `gte` in transformers, and `new` in the files on the hub."""

from __future__ import annotations

import dataclasses
from functools import partial

from qtx.families.checkpoint import Checkpoint, Field, shown_head
from qtx.families.checkpoints import bert, nomic
from qtx.families.checkpoints.roberta import without
from qtx.families.rope import FIXED_NTK, flat_rope
from qtx.families.weights import Weight, dense_weights, layer_norm_weights, packed_weights
from qtx.models import RotaryBertConfig
from qtx.models.bert import OF_TEXTS


def weights(config: RotaryBertConfig, name: str) -> list[Weight]:
    """Returns the table of weights below a prefix: queries, keys and values are the thirds of one tensor, and the
    gated projections its halves, the gate last."""
    layer = f"{name}.encoder.layer.{{layer}}"
    thirds = {f"layers/attention/{third}": config.width for third in ("query", "key", "value")}
    halves = {f"layers/mlp/{half}": config.mlp_width for half in ("in", "gate")}
    types = f"{name}.embeddings.token_type_embeddings.weight"
    of_heads = {
        "mlm": [
            *dense_weights("lm_head.dense", "head/transform"),
            *layer_norm_weights("lm_head.norm", "head/norm"),
            Weight("lm_head.decoder.bias", "head/bias"),
        ],
        "token_classification": dense_weights("classifier", "head/logits"),
        **dict.fromkeys(
            OF_TEXTS, dense_weights(f"{name}.pooler.dense", "head/pooler") + dense_weights("classifier", "head/logits")
        ),
    }
    return [
        Weight(f"{name}.embeddings.word_embeddings.weight", "embeddings/words/embedding"),
        *([Weight(types, "embeddings/token_types/embedding")] if config.type_vocab_size else []),
        *layer_norm_weights(f"{name}.embeddings.LayerNorm", "embeddings/norm"),
        *packed_weights(f"{layer}.attention.qkv_proj", thirds),
        *dense_weights(f"{layer}.attention.o_proj", "layers/attention/out"),
        *layer_norm_weights(f"{layer}.attn_ln", "layers/attention_norm"),
        *packed_weights(f"{layer}.mlp.up_gate_proj", halves, bias=False),
        *dense_weights(f"{layer}.mlp.down_proj", "layers/mlp/out"),
        *layer_norm_weights(f"{layer}.mlp_ln", "layers/mlp_norm"),
        *of_heads.get(config.head, []),
    ]


def checkpoint(model_type: str, beginning: str) -> Checkpoint:
    """Makes the kind of a model type, whose names begin with the type."""
    shown_by: dict[tuple[str, ...], str] = {
        ("classifier.bias", f"{model_type}.pooler.dense.bias"): "classification",
        ("classifier.bias",): "token_classification",
        ("lm_head.decoder.bias",): "mlm",
    }
    return dataclasses.replace(
        bert.CHECKPOINT,
        model_types={model_type: beginning},
        architectures=nomic.ARCHITECTURES,
        fields={
            **without(bert.CHECKPOINT.fields, "hidden_act"),
            "type_vocab_size": Field("type_vocab_size", 1),
            "attention_probs_dropout_prob": Field("attention_dropout", 0.0),
            "rope_theta": Field("rotary_base", 160_000.0),
            "rope_factor": Field("rotary_factor", 1.0, write=lambda factor: 1.0),  # transformers has no such scaling
        },
        supported={"tie_word_embeddings": True, "hidden_act": "gelu", "logn_attention_scale": False}
        | {"layer_norm_type": "layer_norm", "logn_attention_clip1": False, "pack_qkv": True},
        fixed={"activation": "gelu", "attention_bias": True, "mlp_out_bias": True},
        attention_prefix=f"{model_type}.encoder.layer.{{layer}}.self_attn",
        weights=lambda config: weights(config, model_type),
        prefix=f"{model_type}.",
        modules=("embeddings.", "encoder.", "pooler."),
        tied={"lm_head.decoder.weight": f"{model_type}.embeddings.word_embeddings.weight"},
        unused=(f"{model_type}.pooler.",),
        shown_by_weights=partial(shown_head, heads=shown_by),
        options=lambda values, source: {**values, **flat_rope(values, source, (FIXED_NTK,))},
        stock=nomic.STOCK,
    )


CHECKPOINT, OF_HUB = checkpoint("gte", "Gte"), checkpoint("new", "New")
