"""The checkpoints of Llama 1 to 3, SmolLM 1 and 2, TinyLlama and others of their type, and of Mistral; and what those
of all decoders after them have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from qtx.families.checkpoint import Checkpoint, Field
from qtx.families.rope import rotary_keys, rotary_options
from qtx.families.stock import Stock
from qtx.families.weights import Layout, Weight, dense_weights, layer_norm_weights
from qtx.foundation.errors import QtxError
from qtx.models import LlamaConfig

LAYER = "model.layers.{layer}"
# [K, P, D] <-> [P, K, D]
PREFIX = Layout(lambda x: x.transpose(1, 0, 2), lambda x: x.transpose(1, 0, 2))
PREFIXED = ("key", "value")
PREFIX_KEY = "qtx_prefix"
GLOBAL, LOCAL = "full_attention", "sliding_attention"


def options(values: Mapping[str, Any], source: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config.json's values with those that transformers takes for keys that are left out."""
    return {**defaults, **values}


def told(values: Mapping[str, Any], _: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns the options that take more than one key.

    Raises:
      QtxError: if layers see what no layer of these models does, or positions are scaled in a way that is not known.
    """
    heads, head_dim, kv_heads = (values.get(f"{x}") for x in ("num_attention_heads", "head_dim", "num_key_value_heads"))
    number, window = values["num_hidden_layers"], values.get("sliding_window")
    kinds = values.get("layer_types") or [GLOBAL if window is None else LOCAL] * number
    if len(kinds) != number or set(kinds) - {GLOBAL, LOCAL}:
        raise QtxError(
            f"{source}: layer_types are {str(kinds)[:100]}: "
            f"expected {GLOBAL!r} or {LOCAL!r} for each of {number} layers"
        )
    if not values.get("use_sliding_window", True) or LOCAL not in kinds:
        window = None
    bias, mlp_bias = values.get("attention_bias", False), values.get("mlp_bias", False)
    unrotated = tuple(i for i, turned in enumerate(values.get("no_rope_layers") or ()) if not turned)
    return {
        "num_kv_heads": None if kv_heads == heads else kv_heads,
        "head_dim": None if head_dim is None or head_dim * heads == values["hidden_size"] else head_dim,
        "attention_bias": bias,
        "attention_out_bias": values.get("attention_out_bias", bias),
        "mlp_bias": mlp_bias,
        "mlp_out_bias": mlp_bias,
        "window": window,
        "global_layers": () if window is None else tuple(i for i, kind in enumerate(kinds) if kind == GLOBAL),
        "unrotated_layers": unrotated,
        "prefix": values.get(PREFIX_KEY, 0),
        **rotary_options(values, source),
    }


def extra(config: LlamaConfig) -> dict[str, Any]:
    """Returns the keys that `told` reads and all of these models have."""
    shape = {"num_key_value_heads": config.kv_heads, "head_dim": config.head_size}
    return {**shape, **rotary_keys(config), **({PREFIX_KEY: config.prefix} if config.prefix else {})}


def layer_types(config: LlamaConfig) -> dict[str, Any]:
    """Returns the keys that say how far each layer sees."""
    everywhere = (config.window is None or i in config.global_layers for i in range(config.num_layers))
    return {"sliding_window": config.window, "layer_types": [GLOBAL if x else LOCAL for x in everywhere]}


def weights(config: LlamaConfig) -> list[Weight]:
    """Returns the table of weights."""
    attention, mlp = f"{LAYER}.self_attn", f"{LAYER}.mlp"
    before_mlp = "pre_feedforward_layernorm" if config.branch_norms else "post_attention_layernorm"
    norms = {"input_layernorm": "attention_norm", before_mlp: "mlp_norm"}
    if config.branch_norms:
        norms |= {
            "post_attention_layernorm": "attention_branch_norm",
            "post_feedforward_layernorm": "mlp_branch_norm",
        }
    if config.qk_norm:
        norms |= {"self_attn.q_norm": "attention/query_norm", "self_attn.k_norm": "attention/key_norm"}
    rows = [Weight("model.embed_tokens.weight", "embeddings/words/embedding")]
    for name, part in {"q": "query", "k": "key", "v": "value"}.items():
        rows += dense_weights(f"{attention}.{name}_proj", f"layers/attention/{part}", bias=config.attention_bias)
    rows += dense_weights(f"{attention}.o_proj", "layers/attention/out", bias=config.attention_out_bias)
    for name, part in {"gate": "gate", "up": "in"}.items():
        rows += dense_weights(f"{mlp}.{name}_proj", f"layers/mlp/{part}", bias=config.mlp_bias)
    rows += dense_weights(f"{mlp}.down_proj", "layers/mlp/out", bias=config.mlp_out_bias)
    for name, part in norms.items():
        rows += layer_norm_weights(f"{LAYER}.{name}", f"layers/{part}", bias=False)
    rows += layer_norm_weights("model.norm", "final_norm", bias=False)
    if config.prefix:
        rows += [Weight(f"{attention}.prefix_{part}", f"layers/attention/prefix/{part}", PREFIX) for part in PREFIXED]
    untied = config.head == "clm" and not config.tied
    return [*rows, *(dense_weights("lm_head", "head/product", bias=False) if untied else [])]


STOCK = Stock(
    attention="Attention",
    made="config, layer_idx=index",
    layers="layers",
    place="self_attn",
    projections=("q_proj", "k_proj", "v_proj"),
    out="o_proj",
    dropout="self.attention_dropout",
    classes=("ForCausalLM", "Model"),
    positions="rotary",
    cached=True,
)

CHECKPOINT = Checkpoint(
    model_types={"llama": "Llama"},
    architectures={"ForCausalLM": {"head": "clm"}, "Model": {"head": "none"}},
    fields={
        "vocab_size": Field("vocab_size"),
        "hidden_size": Field("width"),
        "intermediate_size": Field("mlp_width"),
        "num_hidden_layers": Field("num_layers"),
        "num_attention_heads": Field("num_heads"),
        "hidden_act": Field("activation", "silu"),
        "max_position_embeddings": Field("max_length", 2048),
        "initializer_range": Field("init_std", 0.02),
        "rms_norm_eps": Field("layer_norm_epsilon", 1e-6),
        "attention_dropout": Field("attention_dropout", 0.0),
        "tie_word_embeddings": Field("tied", False),
    },
    supported={},
    attention_prefix=f"{LAYER}.self_attn",
    weights=weights,
    prefix="model.",
    modules=("embed_tokens.", "layers.", "norm."),
    bare=("Model",),
    tied={"lm_head.weight": "model.embed_tokens.weight"},
    unused=("lm_head.",),  # of a decoder that embeds texts
    buffers=(f"{LAYER.format(layer='*')}.self_attn.rotary_emb.inv_freq",),
    options=partial(options, defaults={"rope_theta": 10_000.0, "max_position_embeddings": 2048}),
    told_by_values=told,
    extra=lambda config: extra(config) | {"attention_bias": config.attention_bias, "mlp_bias": config.mlp_bias},
    stock=STOCK,
)
"""Llama's; other decoders' have the same names."""

MISTRAL = dataclasses.replace(
    CHECKPOINT,
    model_types={"mistral": "Mistral"},
    options=partial(
        options,
        defaults={
            "rope_theta": 10_000.0,
            "max_position_embeddings": 4096 * 32,
            "num_key_value_heads": 8,
            "sliding_window": 4096,
        },
    ),
    nullable=("sliding_window",),
    extra=lambda config: extra(config) | {"sliding_window": config.window},
)
