"""What a generated file takes from `transformers` (5.23), by `model_type`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Stock:
    """Names in a family's stock model.

    Attributes:
      attention: class of the attention layer.
      made: the arguments that it is made with, where `config` and the layer's `index` are known.
      layers: where the base model has its layers.
      place: where a layer has its attention.
      projections: the layers that make queries, keys and values.
      out: the layer after the heads, if it is the attention's.
      dropout: rate of dropout on the probabilities.
      classes: for an Auto class the stock one that is made this model's.
      own: where the attention has the parameters of normalizer and gate, so that they have the checkpoint's names.
      cached: whether keys and values of earlier tokens may be given.
    """

    attention: str
    made: str
    layers: str
    place: str
    projections: tuple[str, str, str]
    out: str | None
    dropout: str
    classes: Mapping[str, str]
    own: str = "self"
    cached: bool = False


STOCK = {
    "bert": Stock(
        attention="BertSelfAttention",
        made="config, layer_idx=index",
        layers="encoder.layer",
        place="attention.self",
        projections=("query", "key", "value"),
        out=None,
        dropout="self.dropout.p",
        classes={
            "AutoModel": "BertModel",
            "AutoModelForPreTraining": "BertForPreTraining",
            "AutoModelForMaskedLM": "BertForMaskedLM",
            "AutoModelForSequenceClassification": "BertForSequenceClassification",
            "AutoModelForTokenClassification": "BertForTokenClassification",
            "AutoModelForQuestionAnswering": "BertForQuestionAnswering",
        },
    ),
    "opt": Stock(
        attention="OPTAttention",
        made="config, layer_idx=index",
        layers="decoder.layers",
        place="self_attn",
        projections=("q_proj", "k_proj", "v_proj"),
        out="out_proj",
        dropout="self.dropout",
        classes={
            "AutoModel": "OPTModel",
            "AutoModelForCausalLM": "OPTForCausalLM",
            "AutoModelForSequenceClassification": "OPTForSequenceClassification",
        },
        cached=True,
    ),
    "vit": Stock(
        attention="ViTAttention",
        made="config",
        layers="layers",
        place="attention",
        projections=("q_proj", "k_proj", "v_proj"),
        out="o_proj",
        dropout="self.attention_dropout",
        # A ViTModel on its own gets its weights renamed only if it is a stock one.
        classes={"AutoModelForImageClassification": "ViTForImageClassification"},
        own="self.attention",
    ),
}
