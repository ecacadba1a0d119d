"""The family OPT."""

from __future__ import annotations

from qtx.families.checkpoints import gpt2, opt
from qtx.families.checkpoints.opt import LAYER
from qtx.families.family import Family, MeasuredSites
from qtx.models import Opt, OptConfig

TENSORS = {
    "final_norm": "model.decoder.final_layer_norm",
    "layers/mlp_residual": LAYER,
    "layers/mlp/out": f"{LAYER}.fc2",
    "layers/mlp_norm": f"{LAYER}.final_layer_norm",
    "layers/attention/out": f"{LAYER}.self_attn.out_proj",
    "layers/attention_norm": f"{LAYER}.self_attn_layer_norm",
}

PRE_NORM = MeasuredSites(
    infinity_norm="layers/mlp_residual",
    kurtosis=TENSORS,
    maxima={
        "max_inf_norm": tuple(TENSORS),
        "max_ffn_inf_norm": ("layers/mlp/out",),
        "max_layer_inf_norm": ("layers/mlp_residual",),
    },
)

POST_NORM = MeasuredSites(
    infinity_norm="layers/mlp_norm",
    kurtosis={
        "layers/mlp_norm": LAYER,
        **{site: TENSORS[site] for site in ("layers/mlp/out", "layers/attention/out", "layers/attention_norm")},
    },
    norms_only={"layers/mlp_residual": f"{LAYER}.final_layer_norm.input"},
    maxima={"max_ffn_inf_norm": ("layers/mlp/out",), "max_layer_inf_norm": ("layers/mlp_norm",)},
)
"""The sites of OPT-350m's kind: a layer's output is that of its last LayerNorm, and there is no final LayerNorm."""

OPT = Family(
    title="OPT",
    module=Opt,
    config=OptConfig,
    objectives=("clm", "choices", "distill"),
    measured=lambda config: PRE_NORM if config.pre_norm else POST_NORM,
    recipe="paper_opt",
    checkpoints=(opt.CHECKPOINT, gpt2.CHECKPOINT),
    vocab_size=50272,
    small=lambda config, sizes: {"embedding_width": sizes["width"] // 2 if config.projected else None},
)
