"""The kinds of checkpoint that the registered families have: which one a folder is, and which one a model becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtx.families import FAMILIES, Checkpoint, Family, family_of
from qtx.foundation.errors import QtxError, unknown
from qtx.models import TransformerConfig

DISENTANGLED = (
    "DeBERTa's attention is disentangled, its queries and keys multiply those of relative positions too, which qtx's "
    "attention does not compute; encoders of the same size without that are e.g. bert, roberta or electra"
)
EXPERTS = (
    "its feed-forward networks are mixtures of experts, which qtx does not have; dense models of the same kind "
    "come in, e.g. llama, mistral, qwen2 or qwen3"
)
REFUSED = {
    **dict.fromkeys(
        ("mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3", "olmoe", "phimoe", "granitemoe"), EXPERTS
    ),
    "gemma3": "the model reads images too; its text model alone is of model_type 'gemma3_text'",
    "deit": "transformers' DeiT has a distillation token, which qtx's ViT has not; the DeiTs that were trained without "
    "one are of model_type 'vit', or timm's",
    **dict.fromkeys(("deberta", "deberta-v2"), DISENTANGLED),
}


def kind_of(values: Mapping[str, Any], source: str) -> tuple[Family, Checkpoint]:
    """Returns the family and the kind of checkpoint that a config.json, called `source` in messages, is of.

    Raises:
      QtxError: if it is of no registered kind.
    """
    kinds = [(family, checkpoint) for family in FAMILIES.values() for checkpoint in family.checkpoints]
    types: dict[str, list[str]] = {}
    for _, checkpoint in kinds:
        types.setdefault(checkpoint.library.key, []).extend(checkpoint.model_types)
    key = next((key for key in types if key in values), None)
    if key is None:
        needed = (f"no {key!r}: expected one of {', '.join(known)}" for key, known in types.items())
        raise QtxError(f"{source} has {'; and '.join(needed)}")
    name = str(values[key])
    if name in REFUSED:
        raise QtxError(f"{source}: {key} is {name!r}: {REFUSED[name]}")
    for family, checkpoint in kinds:
        if checkpoint.library.key == key and checkpoint.beginning(values) is not None:
            return family, checkpoint
    raise unknown(f"{key} in {source}:", name, types[key])


def kind_for(config: TransformerConfig) -> Checkpoint:
    """Returns the kind of checkpoint that a model without an original becomes: the first of its family that can say
    all of its config.

    Raises:
      QtxError: naming what they cannot say.
    """
    family = family_of(config)
    unsaid = []
    for kind in family.checkpoints:
        if kind.written:
            unsaid.append(kind.unsaid(config))
            if unsaid[-1] is None:
                return kind
    none = f"{family.title} has no Hugging Face format: give its Family a Checkpoint, the table of its weights' names"
    raise QtxError("; ".join(map(str, unsaid)) or none)
