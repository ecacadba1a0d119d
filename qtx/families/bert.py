"""The family BERT."""

from __future__ import annotations

from qtx.families.checkpoints import albert, bert, distilbert, electra, mpnet, roberta
from qtx.families.checkpoints.bert import LAYER
from qtx.families.family import Family, MeasuredSites
from qtx.models import Bert, BertConfig

MEASURED = MeasuredSites(
    infinity_norm="layers/mlp/out",
    kurtosis={"layers/mlp/out": f"{LAYER}.output.dense", "layers/mlp_norm": f"{LAYER}.output.LayerNorm"},
    norms_only={"layers/mlp_residual": f"{LAYER}.output.LayerNorm.input"},
    maxima={
        "max_ffn_out_inf_norm": ("layers/mlp/out",),
        "max_LN_out_inf_norm": ("layers/mlp_norm",),
        "max_LN_inp_inf_norm": ("layers/mlp_residual",),
    },
)

BERT = Family(
    title="BERT",
    module=Bert,
    config=BertConfig,
    objectives=("mlm", "distill", "sequence_classification", "sequence_regression", "multi_label_classification"),
    heads={
        "mlm": "mlm",
        "sequence_classification": "classification",
        "sequence_regression": "regression",
        "multi_label_classification": "multi_label",
    },
    measured=lambda config: MEASURED,
    recipe="paper_bert",
    checkpoints=tuple(kind.CHECKPOINT for kind in (bert, roberta, mpnet, distilbert, electra, albert)),
    vocab_size=30522,
)
