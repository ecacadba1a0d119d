"""The names in stock models of `transformers` (5.23) that a generated file uses, by `model_type`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Stock:
    """Names in a family's stock model.

    Attributes:
      attention: class of the attention layer.
      made: the arguments that the layer is made with, where `config` and the layer's `index` are known.
      layers: the attribute of the base model that has its layers.
      place: the attribute of a layer that has its attention.
      projections: the layers that make queries, keys and values.
      out: the output projection after the heads, if it belongs to the attention layer.
      dropout: rate of dropout on the probabilities.
      classes: Auto class to the stock class that the file's class of the same name extends.
      own: the module that has the parameters of normalizer and gate, so that they have the checkpoint's names.
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
        # transformers renames the weights of a bare ViTModel only if it is a stock one.
        classes={"AutoModelForImageClassification": "ViTForImageClassification"},
        own="self.attention",
    ),
}
