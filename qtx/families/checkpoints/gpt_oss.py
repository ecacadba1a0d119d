"""The checkpoints of models with gpt-oss's attention, a learned sink for each head; its mixtures of experts are
refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from qtx.attention import AttentionConfig
from qtx.attention.normalizers import Sink
from qtx.families.checkpoint import Field
from qtx.families.checkpoints import llama
from qtx.families.checkpoints.llama import GLOBAL, LOCAL
from qtx.foundation.errors import QtxError
from qtx.models import LlamaConfig

EXPERTS = "num_local_experts"
ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
DEFAULTS = {
    "rope_theta": 150_000.0,
    "max_position_embeddings": 131_072,
    "head_dim": 64,
    "num_key_value_heads": 8,
    "sliding_window": 128,
    "attention_bias": True,
    EXPERTS: 128,
}


def options(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns a config.json's values; every second layer sees all, if `layer_types` do not say which.

    Raises:
      QtxError: if the feed-forward networks are mixtures of experts.
    """
    found = llama.options(values, source, DEFAULTS)
    if found[EXPERTS]:
        raise QtxError(
            f"{source}: {EXPERTS} is {found[EXPERTS]}: qtx has no mixtures of experts; expected 0, one network a layer "
            "with gate_proj, up_proj and down_proj, or another model"
        )
    if not (found.get("rope_scaling") or found.get("rope_parameters")):
        found["rope_parameters"] = ROPE
    return {"layer_types": [GLOBAL if i % 2 else LOCAL for i in range(found["num_hidden_layers"])], **found}


def extra(config: LlamaConfig) -> dict[str, Any]:
    """Returns the keys that `told_by_values` reads; without a scaling it is said that there is none."""
    found = {**llama.extra(config), **llama.layer_types(config), "attention_bias": config.attention_bias}
    return {"rope_scaling": {"rope_type": "default"}, **found}


CHECKPOINT = dataclasses.replace(
    llama.CHECKPOINT,
    model_types={"gpt_oss": "GptOss"},
    fields={**llama.CHECKPOINT.fields, "rms_norm_eps": Field("layer_norm_epsilon", 1e-5)},
    supported={EXPERTS: 0},
    options=options,
    extra=extra,
    attention=AttentionConfig(Sink()),
    nullable=("sliding_window",),
    stock=None,
)
