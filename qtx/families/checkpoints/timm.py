"""The checkpoints that timm has of the family ViT: a VisionTransformer with a class token, as the first ViTs and
undistilled DeiTs are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qtx.data.images import IMAGENET
from qtx.data.resizing import INTERPOLATIONS
from qtx.families.checkpoint import Checkpoint, Field
from qtx.families.library import Library
from qtx.families.weights import FIRST, VECTOR, Weight, convolution, dense_weights, layer_norm_weights, packed_weights
from qtx.foundation.errors import QtxError
from qtx.foundation.storage.json_values import number, numbers, one_of
from qtx.models import VitConfig

LAYER = "blocks.{layer}"
NAME = re.compile(r"(?:vit|deit)_([a-z]+)_patch(\d{1,3})_(\d{1,4})")
# embed_dim, depth, num_heads and mlp_ratio of the architectures.
SIZES = {
    "tiny": (192, 12, 3, 4.0),
    "small": (384, 12, 6, 4.0),
    "base": (768, 12, 12, 4.0),
    "large": (1024, 24, 16, 4.0),
    "huge": (1280, 32, 16, 4.0),
    "giant": (1408, 40, 16, 48 / 11),
    "gigantic": (1664, 48, 16, 64 / 13),
}
LARGEST = 1e9
"""The bound of `embed_dim` and `mlp_ratio`, so that their product is finite."""
OF_TRAINING = (
    *("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"),
    *("weight_init", "fix_init"),
)
SUPPORTED = {
    "global_pool": "token",
    "class_token": True,
    "reg_tokens": 0,
    "pos_embed": "learn",
    "no_embed_class": False,
    "dynamic_img_size": False,
    "pre_norm": False,
    "final_norm": True,
    "fc_norm": None,
    "qkv_bias": True,
    "proj_bias": True,
    "qk_norm": False,
    "scale_attn_norm": False,
    "scale_mlp_norm": False,
    "init_values": None,
}
LABELS = ("label_names", "labels")
"""Keys of the classes' names in order of precedence; `label_names` of `pretrained_cfg` comes last."""
# timm's defaults for what `pretrained_cfg` leaves out (its class PretrainedCfg).
PRETRAINED = {"crop_pct": 0.875, "crop_mode": "center", "interpolation": "bicubic", **IMAGENET}
CROP_MODES = ("center", "squash")


def class_names(values: Mapping[str, Any]) -> Mapping[Any, Any]:
    """Returns the names of the classes that a config.json names, by number."""
    nested = values.get("pretrained_cfg")
    places = [values.get(key) for key in LABELS] + [nested.get(LABELS[0]) if isinstance(nested, dict) else None]
    names = next((names for names in places if names), None)
    return dict(enumerate(names)) if isinstance(names, list) else names if isinstance(names, dict) else {}


def pixels(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns the options of `pretrained_cfg`, or in files of earlier versions those beside the architecture, as timm's
    `create_transform` evaluates.

    Raises:
      QtxError: naming an option that qtx does not support.
    """
    given = values.get("pretrained_cfg", values) or {}
    if not isinstance(given, dict):
        raise QtxError(f"{source}: pretrained_cfg is {str(given)[:100]}, expected options by name")
    told = PRETRAINED | {key: given[key] for key in PRETRAINED if given.get(key) is not None}
    return {
        "crop_ratio": number(source, "crop_pct", told["crop_pct"], most=1.0),
        "crop_mode": one_of(source, "crop_mode", told["crop_mode"], CROP_MODES),
        "interpolation": one_of(source, "interpolation", told["interpolation"], INTERPOLATIONS),
        "mean": numbers(source, "mean", told["mean"]),
        "std": numbers(source, "std", told["std"]),
    }


def options(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns the arguments of VisionTransformer that a config.json means: the architecture's, then `model_args`.

    Raises:
      QtxError: naming an architecture or an argument that qtx does not support.
    """
    name, given = str(values["architecture"]), values.get("model_args") or {}
    match = NAME.fullmatch(name)
    if match is None or match[1] not in SIZES:
        raise QtxError(
            f"{source}: architecture is {name[:100]!r}; qtx supports timm's vit_SIZE_patchN_N and deit_SIZE_patchN_N, "
            f"with a size of {', '.join(SIZES)}"
        )
    if not isinstance(given, dict):
        raise QtxError(f"{source}: model_args is {str(given)[:100]}, expected arguments by name")
    dim, depth, heads, ratio = SIZES[match[1]]
    result: dict[str, Any] = {"embed_dim": dim, "depth": depth, "num_heads": heads, "mlp_ratio": ratio, "in_chans": 3}
    result |= {"patch_size": int(match[2]), "img_size": int(match[3])}
    for key in given.keys() - {*result, *SUPPORTED, *OF_TRAINING, "num_classes"}:
        raise QtxError(f"{source}: model_args has {key[:100]!r}, which qtx does not support")
    result |= {key: values[key] for key in ("num_classes", "global_pool") if key in values}
    result |= {key: value for key, value in given.items() if key not in OF_TRAINING}
    for key in ("img_size", "patch_size"):
        sides = result[key] if isinstance(result[key], list) else [result[key], result[key]]
        if len(sides) != 2 or sides[0] != sides[1]:
            raise QtxError(f"{source}: {key} is {str(sides)[:100]}; qtx supports only squares")
        result[key] = sides[0]
    for key in ("embed_dim", "mlp_ratio"):
        if not isinstance(result[key], int | float) or not 0 < result[key] < LARGEST:
            raise QtxError(f"{source}: {key} is {str(result[key])[:100]}, expected a positive number")
    if "num_classes" in result:  # timm leaves the classifier of no classes out
        result |= {"head": "classification"} if result["num_classes"] else {"head": "none", "num_classes": None}
    result["mlp_width"] = int(result["embed_dim"] * result["mlp_ratio"])
    return result


def weights(config: VitConfig) -> list[Weight]:
    """Returns the table of weights; queries, keys and values are the thirds of one tensor."""
    thirds = {f"layers/attention/{third}": config.width for third in ("query", "key", "value")}
    return [
        Weight("cls_token", "embeddings/class_token", VECTOR),
        Weight("pos_embed", "embeddings/positions", FIRST),
        Weight("patch_embed.proj.weight", "embeddings/patches/kernel", convolution(config.patch_size)),
        Weight("patch_embed.proj.bias", "embeddings/patches/bias"),
        *layer_norm_weights(f"{LAYER}.norm1", "layers/attention_norm"),
        *packed_weights(f"{LAYER}.attn.qkv", thirds),
        *dense_weights(f"{LAYER}.attn.proj", "layers/attention/out"),
        *layer_norm_weights(f"{LAYER}.norm2", "layers/mlp_norm"),
        *dense_weights(f"{LAYER}.mlp.fc1", "layers/mlp/in"),
        *dense_weights(f"{LAYER}.mlp.fc2", "layers/mlp/out"),
        *layer_norm_weights("norm", "final_norm"),
        *(dense_weights("head", "head/logits") if config.head == "classification" else []),
    ]


TIMM = Library(
    "timm", "architecture", class_names, lambda names: {LABELS[0]: list(names)}, names_all=False, pixels=pixels
)
CHECKPOINT = Checkpoint(
    model_types={"vit_*": "VisionTransformer", "deit*": "VisionTransformer"},
    architectures={"": {}},
    fields={
        "embed_dim": Field("width"),
        "depth": Field("num_layers"),
        "num_heads": Field("num_heads"),
        "mlp_width": Field("mlp_width"),
        "img_size": Field("image_size"),
        "patch_size": Field("patch_size"),
        "in_chans": Field("channels"),
        "num_classes": Field("num_classes"),
        "head": Field("head"),
    },
    supported=SUPPORTED,
    attention_prefix=f"{LAYER}.attn",
    weights=weights,
    library=TIMM,
    fixed={"layer_norm_epsilon": 1e-6},
    options=options,
    written=False,
)
