"""The checkpoints of RoBERTa, XLM-R and CamemBERT, which are BERTs with other heads, names and tokenizers.

The first token has the third row of the table of positions. The rows before it are padding's, which comes after a text,
so that no token sees anything of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from qtx.families.checkpoint import Field, shown_head
from qtx.families.checkpoints import bert
from qtx.families.weights import Weight, dense_weights, layer_norm_weights
from qtx.models.bert import OF_TEXTS, OF_TOKENS

PADDING = 1
FIRST = PADDING + 1
OF_HEADS = {
    "mlm": [
        *dense_weights("lm_head.dense", "head/transform"),
        *layer_norm_weights("lm_head.layer_norm", "head/norm"),
        Weight("lm_head.bias", "head/bias"),
    ],
    "none": [],
    **dict.fromkeys(
        OF_TEXTS,
        [*dense_weights("classifier.dense", "head/pooler"), *dense_weights("classifier.out_proj", "head/logits")],
    ),
    **{head: bert.OF_HEADS[head] for head in OF_TOKENS},
}
SHOWN_BY: dict[tuple[str, ...], str] = {
    ("classifier.out_proj.bias",): "classification",
    ("classifier.bias",): "token_classification",
    ("qa_outputs.bias",): "span",
    ("lm_head.bias",): "mlm",
}
POSITIONS = Field("max_length", read=lambda rows: rows - FIRST, write=lambda length: length + FIRST)


def without(names: Mapping[str, Any], *left_out: str) -> dict[str, Any]:
    """Returns a table without some of its names."""
    return {name: entry for name, entry in names.items() if name not in left_out}


STOCK = dataclasses.replace(bert.STOCK, classes=tuple(x for x in bert.STOCK.classes if x != "ForPreTraining"))
CHECKPOINT = dataclasses.replace(
    bert.CHECKPOINT,
    model_types={"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"},
    architectures=without(bert.CHECKPOINT.architectures, "ForPreTraining"),
    fields={**without(bert.CHECKPOINT.fields, "hidden_act"), "max_position_embeddings": POSITIONS},
    # The masked-language head has GELU, whatever activation the layers have.
    supported={**bert.CHECKPOINT.supported, "hidden_act": "gelu", "pad_token_id": PADDING},
    attention_prefix=bert.CHECKPOINT.attention_prefix.replace("bert", "roberta", 1),
    weights=lambda config: [*bert.encoder("roberta", FIRST), *OF_HEADS[config.head]],
    prefix="roberta.",
    tied={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    unused=("roberta.pooler.", "roberta.embeddings.position_ids"),
    shown_by_weights=partial(shown_head, heads=SHOWN_BY),
    stock=STOCK,
)
