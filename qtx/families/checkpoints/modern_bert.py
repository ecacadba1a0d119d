"""The checkpoints of ModernBERT, with the keys of transformers 4 and 5."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from qtx.families.checkpoint import Checkpoint, Field, shown_head
from qtx.families.checkpoints import bert, nomic, roberta
from qtx.families.checkpoints.roberta import without
from qtx.families.rope import flat_rope
from qtx.families.weights import Weight, dense_weights, layer_norm_weights, packed_weights
from qtx.foundation.errors import QtxError
from qtx.models import ModernBertConfig

LAYER = "model.layers.{layer}"
GLOBAL, LOCAL = "full_attention", "sliding_attention"
THETAS = {GLOBAL: "global_rope_theta", LOCAL: "local_rope_theta"}
PADDING = 50283
EVERY = "global_attn_every_n_layers"


def options(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns a config.json's values under the keys of transformers 4.

    Raises:
      QtxError: if layers see what they see in no regular order, or positions are scaled.
    """
    found, nested = dict(values), values.get("rope_parameters") or {}
    if not isinstance(nested, Mapping) or nested.keys() - THETAS.keys():
        raise QtxError(f"{source}: rope_parameters are {str(nested)[:100]}, expected those of {' and '.join(THETAS)}")
    for kind, key in THETAS.items():
        rope = flat_rope({"rope_parameters": nested.get(kind), "rope_scaling": values.get("rope_scaling")}, source)
        if "rope_theta" in rope:
            found[key] = rope["rope_theta"]
    kinds = values.get("layer_types")
    if kinds is not None:
        if len(kinds) != values.get("num_hidden_layers"):
            raise QtxError(f"{source}: layer_types are {len(kinds)}: expected one for each of num_hidden_layers")
        every = next((i for i in range(1, len(kinds)) if kinds[i] == GLOBAL), len(kinds))
        if list(kinds) != [LOCAL if i % every else GLOBAL for i in range(len(kinds))]:
            raise QtxError(f"{source}: layer_types are {str(kinds)[:100]}: expected every n-th layer to be {GLOBAL!r}")
        found[EVERY] = every
    return found


def weights(config: ModernBertConfig) -> list[Weight]:
    """Returns the table of weights; the first layer has no norm before its attention."""
    thirds = {f"layers/attention/{third}": config.width for third in ("query", "key", "value")}
    halves = {f"layers/mlp/{half}": config.mlp_width for half in ("gate", "in")}
    transform = [
        *dense_weights("head.dense", "head/transform", bias=False),
        *layer_norm_weights("head.norm", "head/norm", bias=False),
    ]
    of_head = Weight("decoder.bias", "head/bias")
    return [
        Weight("model.embeddings.tok_embeddings.weight", "embeddings/words/embedding"),
        *layer_norm_weights("model.embeddings.norm", "embeddings/norm", bias=False),
        *layer_norm_weights(f"{LAYER}.attn_norm", "layers/attention_norm", bias=False, first=1),
        *packed_weights(f"{LAYER}.attn.Wqkv", thirds, bias=False),
        *dense_weights(f"{LAYER}.attn.Wo", "layers/attention/out", bias=False),
        *layer_norm_weights(f"{LAYER}.mlp_norm", "layers/mlp_norm", bias=False),
        *packed_weights(f"{LAYER}.mlp.Wi", halves, bias=False),
        *dense_weights(f"{LAYER}.mlp.Wo", "layers/mlp/out", bias=False),
        *layer_norm_weights("model.final_norm", "final_norm", bias=False),
        *(transform if config.head != "none" else []),
        *([of_head] if config.head == "mlm" else []),
        *(dense_weights("classifier", "head/logits") if config.head not in ("mlm", "none") else []),
    ]


def extra(config: ModernBertConfig) -> dict[str, Any]:
    """Returns what transformers would not guess: what the outputs mean, and that its padding is no token of a small
    vocabulary."""
    return bert.extra(config) | ({} if (config.vocab_size or 0) > PADDING else {"pad_token_id": None})


SHOWN_BY: dict[tuple[str, ...], str] = {("classifier.bias",): "classification", ("decoder.bias",): "mlm"}
CHECKPOINT = Checkpoint(
    model_types={"modernbert": "ModernBert"},
    architectures=without(bert.CHECKPOINT.architectures, "ForPreTraining"),
    fields={
        **bert.SHAPE,
        "max_position_embeddings": Field("max_length", 8192),
        "mlp_dropout": Field("dropout", 0.0),
        "attention_dropout": Field("attention_dropout", 0.0),
        "initializer_range": Field("init_std", 0.02),
        "norm_eps": Field("layer_norm_epsilon", 1e-5),
        EVERY: Field("global_every", 3),
        "local_attention": Field("local_distance", 128, lambda total: total // 2, lambda distance: 2 * distance),
        "global_rope_theta": Field("global_base", 160_000.0),
        "local_rope_theta": Field("local_base", 10_000.0),
        "classifier_pooling": Field("text_pooling", "cls"),
    },
    # The heads have GELU, whatever activation the layers have.
    supported={
        "hidden_activation": "gelu",
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "decoder_bias": True,
        "attention_bias": False,
        "mlp_bias": False,
        "norm_bias": False,
        "tie_word_embeddings": True,
    },
    attention_prefix=f"{LAYER}.attn",
    weights=weights,
    fixed={"type_vocab_size": 0},
    prefix="model.",
    modules=("embeddings.", "layers.", "final_norm."),
    bare=("Model",),
    tied={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
    shown_by_weights=partial(shown_head, heads=SHOWN_BY),
    told_by_values=bert.told_by_values,
    extra=extra,
    options=options,
    stock=dataclasses.replace(
        nomic.STOCK,
        made="config, index",
        place="attn",
        projections=("Wqkv",),
        out="Wo",
        classes=roberta.STOCK.classes,
    ),
)
