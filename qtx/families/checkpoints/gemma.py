"""The checkpoints of Gemma 1, Gemma 2, and Gemma 3's text models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from qtx.families.checkpoint import Field
from qtx.families.checkpoints import llama
from qtx.families.checkpoints.llama import GLOBAL, LOCAL
from qtx.foundation.errors import QtxError
from qtx.models import LlamaConfig

DEFAULTS = {
    "rope_theta": 10_000.0,
    "max_position_embeddings": 8192,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}
ALTERNATING = {"num_key_value_heads": 4, "sliding_window": 4096, "query_pre_attn_scalar": 256}
ACTIVATION, PATTERN = "hidden_activation", "sliding_window_pattern"


def options(values: Mapping[str, Any], source: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config.json's values; every n-th layer sees all, if there is a window and `layer_types` do not say
    which layers have it."""
    found = llama.options(values, source, DEFAULTS | dict(defaults))
    found["hidden_act"] = values.get(ACTIVATION, found["hidden_act"])
    if found["hidden_act"] == "gelu":  # an old name for what the published models have
        found["hidden_act"] = "gelu_pytorch_tanh"
    every = found.get(PATTERN)
    kinds = {} if every is None else {"layer_types": [LOCAL if (i + 1) % every else GLOBAL for i in _layers(found)]}
    return {**kinds, **found}


def _layers(values: Mapping[str, Any]) -> range:
    return range(values["num_hidden_layers"])


def options_of_3(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns a config.json's values, with the base of the local layers as `rope_local_base_freq`.

    Raises:
      QtxError: if positions of the local layers are scaled.
    """
    defaults = {**ALTERNATING, "max_position_embeddings": 131_072, "rope_theta": 1e6, PATTERN: 6}
    found = options(values, source, defaults)
    nested = found.get("rope_parameters") or {}
    if GLOBAL in nested or LOCAL in nested:
        near = dict(nested.get(LOCAL) or {})
        if near.pop("rope_type", "default") != "default":
            raise QtxError(f"{source}: rope_parameters scale {LOCAL}: qtx supports only 'default' there")
        if "rope_theta" in near:
            found["rope_local_base_freq"] = near["rope_theta"]
        found["rope_parameters"] = nested.get(GLOBAL)
    return {"rope_local_base_freq": 10_000.0, **found}


def told(values: Mapping[str, Any], fields: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns the options that take more than one key, and those that follow from the shape."""
    found = llama.told(values, fields, source)
    scalar = values.get("query_pre_attn_scalar")
    near = values.get("rope_local_base_freq")
    return {
        **found,
        "embedding_scale": values["hidden_size"] ** 0.5,
        "score_dim": None if scalar in (None, values["head_dim"]) else scalar,
        # Without local layers their base means nothing.
        "local_base": None if found["window"] is None else near,
    }


def extra(config: LlamaConfig) -> dict[str, Any]:
    """Returns the keys that `told` reads and all of these models have."""
    return llama.extra(config) | {ACTIVATION: config.activation, "attention_bias": config.attention_bias}


def extra_of_2(config: LlamaConfig) -> dict[str, Any]:
    """Returns the keys that Gemma 2 and 3 have."""
    scalar = config.score_dim or config.head_size
    return {**extra(config), **llama.layer_types(config), "query_pre_attn_scalar": scalar}


def extra_of_3(config: LlamaConfig) -> dict[str, Any]:
    """Returns the keys that Gemma 3 has."""
    near = {} if config.local_base is None else {"rope_local_base_freq": config.local_base}
    return extra_of_2(config) | near


GEMMA = dataclasses.replace(
    llama.CHECKPOINT,
    model_types={"gemma": "Gemma"},
    fixed={"norm_offset": 1.0},
    fields={**llama.CHECKPOINT.fields, "tie_word_embeddings": Field("tied", True)},
    supported={"use_bidirectional_attention": False},
    options=partial(options, defaults={"num_key_value_heads": 16}),
    told_by_values=told,
    extra=extra,
)
GEMMA2 = dataclasses.replace(
    GEMMA,
    model_types={"gemma2": "Gemma2"},
    fields={
        **GEMMA.fields,
        "attn_logit_softcapping": Field("score_cap"),
        "final_logit_softcapping": Field("logit_cap"),
    },
    fixed={"norm_offset": 1.0, "branch_norms": True},
    options=partial(
        options,
        defaults={**ALTERNATING, PATTERN: 2, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    nullable=("sliding_window", "attn_logit_softcapping", "final_logit_softcapping"),
    extra=extra_of_2,
    stock=None,
)
GEMMA3 = dataclasses.replace(
    GEMMA,
    model_types={"gemma3_text": "Gemma3"},
    architectures={"ForCausalLM": {"head": "clm"}, "TextModel": {"head": "none"}},
    bare=("TextModel",),
    fields={**GEMMA.fields, "final_logit_softcapping": Field("logit_cap", None)},
    supported={"use_bidirectional_attention": False, "attn_logit_softcapping": None},
    fixed={"norm_offset": 1.0, "branch_norms": True, "qk_norm": True},
    options=options_of_3,
    nullable=("sliding_window",),
    extra=extra_of_3,
    stock=None,
)
