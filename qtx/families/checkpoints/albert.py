"""The checkpoints of ALBERT, which are BERTs of narrower embeddings whose layers share one layer's weights.

The files have groups of layers, and layers within a group; every published model has one of each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from qtx.families.checkpoint import Field, shown_head
from qtx.families.checkpoints import bert
from qtx.families.weights import Weight, dense_weights, layer_norm_weights
from qtx.foundation.errors import QtxError
from qtx.models.bert import OF_TEXTS, OF_TOKENS

LAYER = "albert.encoder.albert_layer_groups.0.albert_layers.0"
ENCODER = [
    Weight("albert.embeddings.word_embeddings.weight", "embeddings/words/embedding"),
    Weight("albert.embeddings.position_embeddings.weight", "embeddings/positions/embedding"),
    Weight("albert.embeddings.token_type_embeddings.weight", "embeddings/token_types/embedding"),
    *layer_norm_weights("albert.embeddings.LayerNorm", "embeddings/norm"),
    *dense_weights("albert.encoder.embedding_hidden_mapping_in", "embeddings/project_in"),
    *dense_weights(f"{LAYER}.attention.query", "layers/attention/query"),
    *dense_weights(f"{LAYER}.attention.key", "layers/attention/key"),
    *dense_weights(f"{LAYER}.attention.value", "layers/attention/value"),
    *dense_weights(f"{LAYER}.attention.dense", "layers/attention/out"),
    *layer_norm_weights(f"{LAYER}.attention.LayerNorm", "layers/attention_norm"),
    *dense_weights(f"{LAYER}.ffn", "layers/mlp/in"),
    *dense_weights(f"{LAYER}.ffn_output", "layers/mlp/out"),
    *layer_norm_weights(f"{LAYER}.full_layer_layer_norm", "layers/mlp_norm"),
]
OF_HEADS = {
    "mlm": [
        *dense_weights("predictions.dense", "head/transform"),
        *layer_norm_weights("predictions.LayerNorm", "head/norm"),
        Weight("predictions.bias", "head/bias"),
    ],
    "none": [],
    **dict.fromkeys(
        OF_TEXTS, [*dense_weights("albert.pooler", "head/pooler"), *dense_weights("classifier", "head/logits")]
    ),
    **{head: bert.OF_HEADS[head] for head in OF_TOKENS},
}
SHOWN_BY: dict[tuple[str, ...], str] = {
    ("classifier.bias", "albert.pooler.bias"): "classification",
    ("classifier.bias",): "token_classification",
    ("qa_outputs.bias",): "span",
    ("predictions.bias",): "mlm",
}


def told_by_values(values: Mapping[str, Any], fields: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Tells what BERT's config tells.

    Raises:
      QtxError: for tables as wide as the model, which transformers projects even so.
    """
    if values.get("embedding_size") == values["hidden_size"]:
        raise QtxError(f"{source}: embedding_size is hidden_size; qtx's albert supports only another width")
    return bert.told_by_values(values, fields, source)


CHECKPOINT = dataclasses.replace(
    bert.CHECKPOINT,
    model_types={"albert": "Albert"},
    fields={
        **bert.CHECKPOINT.fields,
        "embedding_size": Field("embedding_width", 128),
        "hidden_dropout_prob": Field("dropout", 0.0),
        "attention_probs_dropout_prob": Field("attention_dropout", 0.0),
        "hidden_act": Field("activation", "gelu_new"),
    },
    supported={"num_hidden_groups": 1, "inner_group_num": 1, "tie_word_embeddings": True},
    fixed={"shared_layers": True},
    attention_prefix=f"{LAYER}.attention",
    weights=lambda config: [*ENCODER, *OF_HEADS[config.head]],
    prefix="albert.",
    tied={
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
    unused=("albert.pooler.", "sop_classifier.", "albert.embeddings.position_ids"),
    shown_by_weights=partial(shown_head, heads=SHOWN_BY),
    told_by_values=told_by_values,
    stock=dataclasses.replace(
        bert.STOCK,
        attention="Attention",
        made="config",
        layers="encoder.albert_layer_groups[0].albert_layers",
        place="attention",
        out="dense",
        then="self.LayerNorm(hidden_states + self.output_dropout({}))",
        dropout="self.attention_dropout.p",
    ),
)
