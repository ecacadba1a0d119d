"""The family ViT: ViTForImageClassification and ViTModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtx.families.checkpoint import Checkpoint, first_length, labels
from qtx.families.family import Family, MeasuredSites
from qtx.families.opt import PRE_NORM
from qtx.families.timm import CHECKPOINT as TIMM
from qtx.families.weights import FIRST, VECTOR, Weight, convolution, dense_weights, layer_norm_weights
from qtx.models import Vit, VitConfig

LAYER = "vit.encoder.layer.{layer}"
PATCHES = "vit.embeddings.patch_embeddings.projection"
# transformers has no LayerNorm there; the name is ours.
PATCH_NORM = "vit.embeddings.patch_embeddings.norm"


def weights(config: VitConfig) -> list[Weight]:
    """Returns the table of weights, with rows for the LayerNorm after the patches if the config has one."""
    return [
        Weight("vit.embeddings.cls_token", "embeddings/class_token", VECTOR),
        Weight("vit.embeddings.position_embeddings", "embeddings/positions", FIRST),
        Weight(f"{PATCHES}.weight", "embeddings/patches/kernel", convolution(config.patch_size)),
        Weight(f"{PATCHES}.bias", "embeddings/patches/bias"),
        *(layer_norm_weights(PATCH_NORM, "embeddings/patch_norm") if config.patch_norm else []),
        *dense_weights(f"{LAYER}.attention.attention.query", "layers/attention/query"),
        *dense_weights(f"{LAYER}.attention.attention.key", "layers/attention/key"),
        *dense_weights(f"{LAYER}.attention.attention.value", "layers/attention/value"),
        *dense_weights(f"{LAYER}.attention.output.dense", "layers/attention/out"),
        *layer_norm_weights(f"{LAYER}.layernorm_before", "layers/attention_norm"),
        *dense_weights(f"{LAYER}.intermediate.dense", "layers/mlp/in"),
        *dense_weights(f"{LAYER}.output.dense", "layers/mlp/out"),
        *layer_norm_weights(f"{LAYER}.layernorm_after", "layers/mlp_norm"),
        *layer_norm_weights("vit.layernorm", "final_norm"),
        *(dense_weights("classifier", "head/logits") if config.head == "classification" else []),
    ]


def shown_by_weights(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tells the head, its number of classes and whether patches are normalised from the weights: a config.json may lack
    the head, and a number of 2."""
    shown: dict[str, Any] = {"head": "none", "num_classes": None}
    if "classifier.bias" in tensors:
        shown = {"head": "classification", "num_classes": first_length(tensors["classifier.bias"])}
    return {**shown, "patch_norm": f"{PATCH_NORM}.weight" in tensors}


CHECKPOINT = Checkpoint(
    model_type="vit",
    architectures={"ViTForImageClassification": {"head": "classification"}, "ViTModel": {"head": "none"}},
    fields={
        "hidden_size": "width",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "mlp_width",
        "image_size": "image_size",
        "patch_size": "patch_size",
        "num_channels": "channels",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "initializer_range": "init_std",
        "layer_norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation",
    },
    defaults={
        "num_channels": 3,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
    },
    supported={"qkv_bias": True},
    attention_prefix=f"{LAYER}.attention.attention",
    weights=weights,
    prefix="vit.",
    modules=("embeddings.", "encoder.", "layernorm.", "pooler."),
    bare=("ViTModel",),
    unused=("vit.pooler.", "vit.embeddings.mask_token"),
    shown_by_weights=shown_by_weights,
    extra=lambda config: labels(config.num_classes) if config.head == "classification" else {},
)

# The authors published no ViT code; the paper measures ViT as OPT, by the layer outputs. The names are qtx's own.
MEASURED = MeasuredSites(
    infinity_norm="layers/mlp_residual",
    kurtosis={site: site if site == "final_norm" else f"{site}.{{layer}}" for site in PRE_NORM.kurtosis},
    maxima=PRE_NORM.maxima,
)

VIT = Family(
    title="ViT",
    module=Vit,
    config=VitConfig,
    objectives=("classification", "distill"),
    heads={"classification": "classification"},
    measured=lambda config: MEASURED,
    recipe="paper_vit",
    checkpoint=CHECKPOINT,
    timm=TIMM,
    # A quarter of the built-in images' side.
    small=lambda config, sizes: {"patch_size": 2},
)
