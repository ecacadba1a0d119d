"""The checkpoints of BERT: BertModel, BertForMaskedLM and BertForSequenceClassification."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from qtx.families.checkpoint import Checkpoint, Field, shown_head
from qtx.families.stock import Stock
from qtx.families.weights import Weight, dense_weights, layer_norm_weights
from qtx.foundation.errors import lookup
from qtx.models import BertConfig
from qtx.models.bert import OF_TEXTS

LAYER = "bert.encoder.layer.{layer}"


def encoder(prefix: str, first_position: int = 0) -> list[Weight]:
    """Returns the rows of all below the heads; the table of positions may begin with rows of no position."""
    layer = LAYER.replace("bert", prefix, 1)
    table = f"{prefix}.embeddings.position_embeddings.weight"
    return [
        Weight(f"{prefix}.embeddings.word_embeddings.weight", "embeddings/words/embedding"),
        Weight(table, "embeddings/positions/embedding", begin=first_position, axis=0),
        Weight(f"{prefix}.embeddings.token_type_embeddings.weight", "embeddings/token_types/embedding"),
        *layer_norm_weights(f"{prefix}.embeddings.LayerNorm", "embeddings/norm"),
        *dense_weights(f"{layer}.attention.self.query", "layers/attention/query"),
        *dense_weights(f"{layer}.attention.self.key", "layers/attention/key"),
        *dense_weights(f"{layer}.attention.self.value", "layers/attention/value"),
        *dense_weights(f"{layer}.attention.output.dense", "layers/attention/out"),
        *layer_norm_weights(f"{layer}.attention.output.LayerNorm", "layers/attention_norm"),
        *dense_weights(f"{layer}.intermediate.dense", "layers/mlp/in"),
        *dense_weights(f"{layer}.output.dense", "layers/mlp/out"),
        *layer_norm_weights(f"{layer}.output.LayerNorm", "layers/mlp_norm"),
    ]


OF_HEADS = {
    "mlm": [
        *dense_weights("cls.predictions.transform.dense", "head/transform"),
        *layer_norm_weights("cls.predictions.transform.LayerNorm", "head/norm"),
        Weight("cls.predictions.bias", "head/bias"),
    ],
    "none": [],
    **dict.fromkeys(
        OF_TEXTS, [*dense_weights("bert.pooler.dense", "head/pooler"), *dense_weights("classifier", "head/logits")]
    ),
    "token_classification": dense_weights("classifier", "head/logits"),
    "span": dense_weights("qa_outputs", "head/logits"),
}
SHOWN_BY: dict[tuple[str, ...], str] = {
    ("classifier.bias", "bert.pooler.dense.bias"): "classification",
    ("classifier.bias",): "token_classification",
    ("qa_outputs.bias",): "span",
    ("cls.predictions.bias",): "mlm",
}
# A head of whole texts to its name in config.json.
PROBLEM_TYPE = "problem_type"
PROBLEM_TYPES = {
    "classification": "single_label_classification",
    "regression": "regression",
    "multi_label": "multi_label_classification",
}


def _one_or_more(types: int) -> int:
    if types < 1:
        raise ValueError("there is a table of token types, of one row or more")
    return types


# transformers' classes always have a table of token types.
TYPES = Field("type_vocab_size", 2, read=_one_or_more, write=lambda types: max(types, 1))


def told_by_values(values: Mapping[str, Any], fields: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Tells what the outputs of a head of whole texts mean: what config.json says. If it says nothing, one output is a
    number and several are classes, as in transformers. One class is a number too, as softmax over it says nothing.

    Raises:
      QtxError: for a problem type that transformers does not have.
    """
    if fields["head"] not in OF_TEXTS:
        return {}
    heads = {problem: head for head, problem in PROBLEM_TYPES.items()}
    named = values.get(PROBLEM_TYPE)
    head = "classification" if named is None else lookup(heads, f"{PROBLEM_TYPE} in {source}:", str(named))
    return {"head": "regression" if head == "classification" and fields["num_classes"] == 1 else head}


def extra(config: BertConfig) -> dict[str, Any]:
    """Returns what the outputs of a head of whole texts mean, where transformers would not guess it."""
    guessed = "regression" if config.num_classes == 1 else "classification"
    return {PROBLEM_TYPE: PROBLEM_TYPES[config.head]} if config.head in {*OF_TEXTS} - {guessed} else {}


STOCK = Stock(
    attention="SelfAttention",
    made="config, layer_idx=index",
    layers="encoder.layer",
    place="attention.self",
    projections=("query", "key", "value"),
    out=None,
    dropout="self.dropout.p",
    classes=(
        *("Model", "ForPreTraining", "ForMaskedLM", "ForSequenceClassification"),
        *("ForTokenClassification", "ForQuestionAnswering"),
    ),
)
SHAPE = {
    "vocab_size": Field("vocab_size"),
    "hidden_size": Field("width"),
    "num_hidden_layers": Field("num_layers"),
    "num_attention_heads": Field("num_heads"),
    "intermediate_size": Field("mlp_width"),
}
CHECKPOINT = Checkpoint(
    model_types={"bert": "Bert"},
    architectures={
        "ForMaskedLM": {"head": "mlm"},
        "ForPreTraining": {"head": "mlm"},
        "Model": {"head": "none"},
        "ForSequenceClassification": {"head": OF_TEXTS},
        "ForTokenClassification": {"head": "token_classification"},
        "ForQuestionAnswering": {"head": "span"},
    },
    fields={
        **SHAPE,
        "max_position_embeddings": Field("max_length"),
        "type_vocab_size": TYPES,
        "hidden_dropout_prob": Field("dropout", 0.1),
        "attention_probs_dropout_prob": Field("attention_dropout", 0.1),
        "initializer_range": Field("init_std", 0.02),
        "layer_norm_eps": Field("layer_norm_epsilon", 1e-12),
        "hidden_act": Field("activation", "gelu"),
    },
    supported={
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
        "is_decoder": False,
        "add_cross_attention": False,
    },
    attention_prefix=f"{LAYER}.attention.self",
    weights=lambda config: [*encoder("bert"), *OF_HEADS[config.head]],
    prefix="bert.",
    modules=("embeddings.", "encoder.", "pooler."),
    bare=("Model",),
    tied={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    unused=("bert.pooler.", "cls.seq_relationship.", "bert.embeddings.position_ids"),
    shown_by_weights=partial(shown_head, heads=SHOWN_BY),
    told_by_values=told_by_values,
    extra=extra,
    stock=STOCK,
)
