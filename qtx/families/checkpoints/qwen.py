"""The checkpoints of Qwen 2 and 2.5, Qwen 3, and of Qwen3-Next as far as its layers have softmax attention, which is
gated, and one feed-forward network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from qtx.attention import AttentionConfig
from qtx.attention.gates import ElementwiseGate
from qtx.families.checkpoints import llama
from qtx.families.checkpoints.llama import GLOBAL, LAYER, LOCAL
from qtx.families.weights import Layout, Weight
from qtx.foundation.errors import QtxError
from qtx.models import LlamaConfig

DEFAULTS = {
    "rope_theta": 10_000.0,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}


def options(values: Mapping[str, Any], source: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config.json's values; layers from `max_window_layers` on have the window, if `layer_types` do not say
    which."""
    found = llama.options(values, source, DEFAULTS | dict(defaults))
    near = range(found["max_window_layers"], found["num_hidden_layers"])
    kinds = [LOCAL if i in near else GLOBAL for i in range(found["num_hidden_layers"])]
    return {"layer_types": kinds, **found}


def extra(config: LlamaConfig) -> dict[str, Any]:
    """Returns the keys that `told_by_values` reads; a model without a window keeps none."""
    return {
        **llama.extra(config),
        **llama.layer_types(config),
        "use_sliding_window": config.window is not None,
    }


QWEN2 = dataclasses.replace(
    llama.CHECKPOINT,
    model_types={"qwen2": "Qwen2"},
    options=partial(options, defaults={"attention_bias": True, "attention_out_bias": False}),
    extra=extra,
)
QWEN3 = dataclasses.replace(
    llama.CHECKPOINT,
    model_types={"qwen3": "Qwen3"},
    fixed={"qk_norm": True},
    options=partial(options, defaults={"head_dim": 128}),
    extra=lambda config: extra(config) | {"attention_bias": config.attention_bias},
    stock=dataclasses.replace(llama.STOCK, norms=("q_norm", "k_norm")),
)

EXPERTS = "num_experts"


def options_of_next(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns a config.json's values.

    Raises:
      QtxError: if layers have linear attention, or mixtures of experts.
    """
    defaults = {
        "rope_theta": 10_000.0,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "partial_rotary_factor": 0.25,
        EXPERTS: 512,
    }
    found = llama.options(values, source, defaults)
    linear = found["num_hidden_layers"] - list(found.get("layer_types", ())).count(GLOBAL)
    if linear:
        raise QtxError(
            f"{source}: {linear} of {found['num_hidden_layers']} layers have linear attention (layer_types), which qtx "
            f"does not compute: expected {GLOBAL!r} everywhere"
        )
    if found[EXPERTS]:
        raise QtxError(
            f"{source}: {EXPERTS} is {found[EXPERTS]}: qtx has no mixtures of experts; expected 0, or another model"
        )
    return found


def interleaved(config: LlamaConfig) -> Layout:
    """Returns the layout of queries and gates, `[H 2 D, width]`, each head's queries before its gates, as a matrix
    `[width, 2 H D]`, all queries before all gates."""
    heads, size = config.num_heads, config.head_size

    def imported(x: np.ndarray) -> np.ndarray:
        return x.reshape(heads, 2, size, -1).transpose(3, 1, 0, 2).reshape(-1, 2 * heads * size)

    def exported(x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, 2, heads, size).transpose(2, 1, 3, 0).reshape(2 * heads * size, -1)

    return Layout(imported, exported)


def weights_of_next(config: LlamaConfig) -> list[Weight]:
    """Returns the table of weights, with the gates in the queries' projection."""
    name, layout = f"{LAYER}.self_attn.q_proj.weight", interleaved(config)
    packed = [
        Weight(name, "layers/attention/query/kernel", layout),
        Weight(name, "layers/attention/gate_predictor/kernel", layout, config.num_heads * config.head_size),
    ]
    return [*(row for row in llama.weights(config) if row.name != name), *packed]


QWEN3_NEXT = dataclasses.replace(
    llama.CHECKPOINT,
    model_types={"qwen3_next": "Qwen3Next"},
    fixed={"qk_norm": True, "norm_offset": 1.0},
    supported={"attention_bias": False, EXPERTS: 0},
    options=options_of_next,
    extra=lambda config: {**llama.extra(config), "layer_types": [GLOBAL] * config.num_layers},
    attention=AttentionConfig(gate=ElementwiseGate()),
    weights=weights_of_next,
    stock=None,
)
