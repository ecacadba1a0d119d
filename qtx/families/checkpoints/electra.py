"""The checkpoints of ELECTRA, which are BERTs of narrower embeddings with other heads.

The generator has the masked-language head. A discriminator's own head, which tells replaced tokens, no head of qtx is:
it is read as an encoder, and the head stays in the original.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from qtx.families.checkpoint import shown_head
from qtx.families.checkpoints import bert, roberta
from qtx.families.weights import Weight, dense_weights, layer_norm_weights
from qtx.models import BertConfig
from qtx.models.bert import OF_TEXTS, OF_TOKENS

# transformers' width of the tables of a config.json that does not tell it.
EMBEDDING_SIZE, NARROW = "embedding_size", 128
OF_HEADS = {
    "mlm": [
        *dense_weights("generator_predictions.dense", "head/transform"),
        *layer_norm_weights("generator_predictions.LayerNorm", "head/norm"),
        Weight("generator_lm_head.bias", "head/bias"),
    ],
    "none": [],
    **{head: roberta.OF_HEADS[head] for head in (*OF_TEXTS, *OF_TOKENS)},
}
SHOWN_BY: dict[tuple[str, ...], str] = {
    **{shown: head for shown, head in roberta.SHOWN_BY.items() if head != "mlm"},
    ("generator_lm_head.bias",): "mlm",
}


def weights(config: BertConfig) -> list[Weight]:
    """Returns the table of weights, with the projection of the embeddings where they are narrower."""
    projection = dense_weights("electra.embeddings_project", "embeddings/project_in") if config.projected else []
    return [*bert.encoder("electra"), *projection, *OF_HEADS[config.head]]


def told_by_values(values: Mapping[str, Any], fields: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Tells the width of the tables too, None where it is the model's."""
    width = values.get(EMBEDDING_SIZE, NARROW)
    narrower = None if width == values["hidden_size"] else width
    return {"embedding_width": narrower, **bert.told_by_values(values, fields, source)}


CHECKPOINT = dataclasses.replace(
    bert.CHECKPOINT,
    model_types={"electra": "Electra"},
    architectures={**roberta.CHECKPOINT.architectures, "ForPreTraining": {"head": "none"}},
    fields=roberta.without(bert.CHECKPOINT.fields, "hidden_act"),
    # The heads have GELU, whatever activation the layers have.
    supported={**bert.CHECKPOINT.supported, "hidden_act": "gelu"},
    fixed={"pooler_activation": "gelu"},
    attention_prefix=bert.CHECKPOINT.attention_prefix.replace("bert", "electra", 1),
    weights=weights,
    prefix="electra.",
    modules=("embeddings.", "embeddings_project.", "encoder."),
    tied={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    unused=("discriminator_predictions.", "electra.embeddings.position_ids"),
    shown_by_weights=partial(shown_head, heads=SHOWN_BY),
    told_by_values=told_by_values,
    extra=lambda config: {**bert.extra(config), EMBEDDING_SIZE: config.embedding_width or config.width},
    stock=bert.STOCK,
)
