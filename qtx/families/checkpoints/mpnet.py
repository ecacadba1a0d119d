"""The checkpoints of MPNet (Song et al. 2020), a BERT without token types, with a bias of scores by distance."""

from __future__ import annotations

import dataclasses

from qtx.families.checkpoints import roberta
from qtx.families.checkpoints.roberta import FIRST, without
from qtx.families.weights import Weight, dense_weights, layer_norm_weights

LAYER = "mpnet.encoder.layer.{layer}"
BUCKETS = 32
ENCODER = [
    Weight("mpnet.embeddings.word_embeddings.weight", "embeddings/words/embedding"),
    Weight("mpnet.embeddings.position_embeddings.weight", "embeddings/positions/embedding", begin=FIRST, axis=0),
    *layer_norm_weights("mpnet.embeddings.LayerNorm", "embeddings/norm"),
    Weight("mpnet.encoder.relative_attention_bias.weight", "relative_bias/table/embedding"),
    *dense_weights(f"{LAYER}.attention.attn.q", "layers/attention/query"),
    *dense_weights(f"{LAYER}.attention.attn.k", "layers/attention/key"),
    *dense_weights(f"{LAYER}.attention.attn.v", "layers/attention/value"),
    *dense_weights(f"{LAYER}.attention.attn.o", "layers/attention/out"),
    *layer_norm_weights(f"{LAYER}.attention.LayerNorm", "layers/attention_norm"),
    *dense_weights(f"{LAYER}.intermediate.dense", "layers/mlp/in"),
    *dense_weights(f"{LAYER}.output.dense", "layers/mlp/out"),
    *layer_norm_weights(f"{LAYER}.output.LayerNorm", "layers/mlp_norm"),
]
TIED = {copy: name.replace("roberta", "mpnet") for copy, name in roberta.CHECKPOINT.tied.items()}

CHECKPOINT = dataclasses.replace(
    roberta.CHECKPOINT,
    model_types={"mpnet": "MPNet"},
    fields=without(roberta.CHECKPOINT.fields, "type_vocab_size"),
    supported={"hidden_act": "gelu", "pad_token_id": 1, "tie_word_embeddings": True}
    | {"relative_attention_num_buckets": BUCKETS},
    fixed={"type_vocab_size": 0, "relative_buckets": BUCKETS},
    attention_prefix=f"{LAYER}.attention.attn",
    weights=lambda config: [*ENCODER, *roberta.OF_HEADS[config.head]],
    prefix="mpnet.",
    tied=TIED,
    unused=("mpnet.pooler.", "mpnet.embeddings.position_ids"),
    stock=dataclasses.replace(
        roberta.STOCK,
        made="config",
        place="attention.attn",
        projections=("q", "k", "v"),
        out="o",
        positions="bias",
    ),
)
