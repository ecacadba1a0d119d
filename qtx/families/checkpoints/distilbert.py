"""The checkpoints of DistilBERT, which are BERTs without token types, with other names and ReLU in the pooler.

Sinusoidal positions are stored as a table like learned ones.
"""

from __future__ import annotations

import dataclasses
from functools import partial

from qtx.families.checkpoint import Field, shown_head
from qtx.families.checkpoints import bert, roberta
from qtx.families.weights import Weight, dense_weights, layer_norm_weights
from qtx.models.bert import OF_TEXTS, OF_TOKENS

LAYER = "distilbert.transformer.layer.{layer}"
ENCODER = [
    Weight("distilbert.embeddings.word_embeddings.weight", "embeddings/words/embedding"),
    Weight("distilbert.embeddings.position_embeddings.weight", "embeddings/positions/embedding"),
    *layer_norm_weights("distilbert.embeddings.LayerNorm", "embeddings/norm"),
    *dense_weights(f"{LAYER}.attention.q_lin", "layers/attention/query"),
    *dense_weights(f"{LAYER}.attention.k_lin", "layers/attention/key"),
    *dense_weights(f"{LAYER}.attention.v_lin", "layers/attention/value"),
    *dense_weights(f"{LAYER}.attention.out_lin", "layers/attention/out"),
    *layer_norm_weights(f"{LAYER}.sa_layer_norm", "layers/attention_norm"),
    *dense_weights(f"{LAYER}.ffn.lin1", "layers/mlp/in"),
    *dense_weights(f"{LAYER}.ffn.lin2", "layers/mlp/out"),
    *layer_norm_weights(f"{LAYER}.output_layer_norm", "layers/mlp_norm"),
]
OF_HEADS = {
    "mlm": [
        *dense_weights("vocab_transform", "head/transform"),
        *layer_norm_weights("vocab_layer_norm", "head/norm"),
        Weight("vocab_projector.bias", "head/bias"),
    ],
    "none": [],
    **dict.fromkeys(
        OF_TEXTS, [*dense_weights("pre_classifier", "head/pooler"), *dense_weights("classifier", "head/logits")]
    ),
    **{head: bert.OF_HEADS[head] for head in OF_TOKENS},
}
SHOWN_BY: dict[tuple[str, ...], str] = {
    ("classifier.bias", "pre_classifier.bias"): "classification",
    ("classifier.bias",): "token_classification",
    ("qa_outputs.bias",): "span",
    ("vocab_projector.bias",): "mlm",
}

CHECKPOINT = dataclasses.replace(
    bert.CHECKPOINT,
    model_types={"distilbert": "DistilBert"},
    architectures=roberta.CHECKPOINT.architectures,
    fields={
        "vocab_size": Field("vocab_size"),
        "dim": Field("width"),
        "n_layers": Field("num_layers"),
        "n_heads": Field("num_heads"),
        "hidden_dim": Field("mlp_width"),
        "max_position_embeddings": Field("max_length"),
        "dropout": Field("dropout", 0.1),
        "attention_dropout": Field("attention_dropout", 0.1),
        "initializer_range": Field("init_std", 0.02),
        "activation": Field("activation", "gelu"),
    },
    supported={"tie_word_embeddings": True},
    fixed={"type_vocab_size": 0, "pooler_activation": "relu", "layer_norm_epsilon": 1e-12},
    attention_prefix=f"{LAYER}.attention",
    weights=lambda config: [*ENCODER, *OF_HEADS[config.head]],
    prefix="distilbert.",
    modules=("embeddings.", "transformer."),
    tied={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    unused=("distilbert.embeddings.position_ids",),
    shown_by_weights=partial(shown_head, heads=SHOWN_BY),
    stock=dataclasses.replace(
        roberta.STOCK,
        made="config",
        layers="transformer.layer",
        place="attention",
        projections=("q_lin", "k_lin", "v_lin"),
        out="out_lin",
    ),
)
