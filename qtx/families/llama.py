"""The family of decoders after Llama."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from qtx.families.checkpoints import gemma, gpt_oss, llama, qwen, smollm3
from qtx.families.checkpoints.llama import LAYER
from qtx.families.family import Family
from qtx.families.opt import PRE_NORM
from qtx.models import Llama, LlamaConfig

TENSORS = {
    "final_norm": "model.norm",
    "layers/mlp_residual": LAYER,
    "layers/mlp/out": f"{LAYER}.mlp.down_proj",
    "layers/mlp_norm": f"{LAYER}.post_attention_layernorm",
    "layers/attention/out": f"{LAYER}.self_attn.o_proj",
    "layers/attention_norm": f"{LAYER}.input_layernorm",
}
# As the paper measures OPT.
MEASURED = dataclasses.replace(PRE_NORM, kurtosis=TENSORS)


def small(config: LlamaConfig, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that follow when a model is made small."""
    grouped = config.kv_heads < config.num_heads
    return {
        "num_kv_heads": 1 if grouped else None,
        "head_dim": None,
        "window": None if config.window is None else 4,
        "global_layers": tuple(i for i in config.global_layers if i < sizes["num_layers"]),
        "unrotated_layers": tuple(i for i in config.unrotated_layers if i < sizes["num_layers"]),
    }


LLAMA = Family(
    title="Llama",
    module=Llama,
    config=LlamaConfig,
    objectives=("clm", "distill", "choices"),
    heads={"clm": "clm", "choices": "clm"},
    measured=lambda config: MEASURED,
    recipe="paper_llama",
    checkpoints=(
        *(llama.CHECKPOINT, llama.MISTRAL, qwen.QWEN2, qwen.QWEN3, qwen.QWEN3_NEXT, smollm3.CHECKPOINT),
        *(gemma.GEMMA, gemma.GEMMA2, gemma.GEMMA3, gpt_oss.CHECKPOINT),
    ),
    vocab_size=49152,
    small=small,
)
