"""The checkpoints of SmolLM 3: Llama's, with layers that know no positions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from qtx.families.checkpoint import Field
from qtx.families.checkpoints import llama
from qtx.families.checkpoints.llama import GLOBAL, LOCAL
from qtx.models import LlamaConfig

PADDING = 128004
DEFAULTS = {
    "rope_theta": 2e6,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 4,
    "use_sliding_window": False,
    "no_rope_layer_interval": 4,
}


def options(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns a config.json's values; every n-th layer has no positions, and these layers have the window, if no list
    says which."""
    found = llama.options(values, source, DEFAULTS)
    layers, every = range(found["num_hidden_layers"]), found["no_rope_layer_interval"]
    turned = found.setdefault("no_rope_layers", [int((i + 1) % every != 0) for i in layers])
    return {"layer_types": [GLOBAL if turned[i] else LOCAL for i in layers], **found}


def extra(config: LlamaConfig) -> dict[str, Any]:
    """Returns the keys that `told_by_values` reads, and says that transformers' padding is no token of a small
    vocabulary."""
    return {
        **({} if (config.vocab_size or 0) > PADDING else {"pad_token_id": None}),
        **llama.extra(config),
        **llama.layer_types(config),
        "use_sliding_window": config.window is not None,
        "no_rope_layers": [int(i not in config.unrotated_layers) for i in range(config.num_layers)],
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
    }


CHECKPOINT = dataclasses.replace(
    llama.CHECKPOINT,
    model_types={"smollm3": "SmolLM3"},
    fields={**llama.CHECKPOINT.fields, "tie_word_embeddings": Field("tied", True)},
    options=options,
    extra=extra,
    # Its attention turns queries and keys in some layers only, which the code of another attention does not.
    stock=None,
)
