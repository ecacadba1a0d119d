"""The checkpoints of ViT in transformers: ViTForImageClassification and ViTModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtx.families.checkpoint import Checkpoint, Field, shown_head
from qtx.families.stock import Stock
from qtx.families.weights import FIRST, VECTOR, Weight, convolution, dense_weights, layer_norm_weights
from qtx.models import VitConfig

LAYER = "vit.encoder.layer.{layer}"
PATCHES = "vit.embeddings.patch_embeddings.projection"
# transformers has no LayerNorm there; the name is ours.
PATCH_NORM = "vit.embeddings.patch_embeddings.norm"
PATCH_NORM_IN_TORCH = (
    "patches = self.base_model.embeddings.patch_embeddings",
    "patches.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)",
    "patches.register_forward_hook(lambda patches, inputs, output: patches.norm(output))",
)


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
    """Tells the head, its number of classes and whether patches are normalised from the weights."""
    head = shown_head(tensors, {("classifier.bias",): "classification"})
    return {**head, "patch_norm": f"{PATCH_NORM}.weight" in tensors}


CHECKPOINT = Checkpoint(
    model_types={"vit": "ViT"},
    architectures={"ForImageClassification": {"head": "classification"}, "Model": {"head": "none"}},
    fields={
        "hidden_size": Field("width"),
        "num_hidden_layers": Field("num_layers"),
        "num_attention_heads": Field("num_heads"),
        "intermediate_size": Field("mlp_width"),
        "image_size": Field("image_size"),
        "patch_size": Field("patch_size"),
        "num_channels": Field("channels", 3),
        "hidden_dropout_prob": Field("dropout", 0.0),
        "attention_probs_dropout_prob": Field("attention_dropout", 0.0),
        "initializer_range": Field("init_std", 0.02),
        "layer_norm_eps": Field("layer_norm_epsilon", 1e-12),
        "hidden_act": Field("activation", "gelu"),
    },
    supported={"qkv_bias": True},
    attention_prefix=f"{LAYER}.attention.attention",
    weights=weights,
    prefix="vit.",
    modules=("embeddings.", "encoder.", "layernorm.", "pooler."),
    bare=("Model",),
    unused=("vit.pooler.", "vit.embeddings.mask_token"),
    shown_by_weights=shown_by_weights,
    stock=Stock(
        attention="Attention",
        made="config",
        layers="layers",
        place="attention",
        projections=("q_proj", "k_proj", "v_proj"),
        out="o_proj",
        dropout="self.attention_dropout",
        # transformers renames the weights of a bare ViTModel only if it is a stock one.
        classes=("ForImageClassification",),
        own="self.attention",
        more=lambda config: PATCH_NORM_IN_TORCH if config.patch_norm else (),
    ),
)
