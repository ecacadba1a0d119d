"""Models on one shared block; what else is known of a family is in `qtx.families`."""

from __future__ import annotations

from typing import Any

import jax

from qtx.models.bert import Bert, BertConfig
from qtx.models.block import FROM_DATA, TransformerConfig
from qtx.models.comparison import COMPUTATION, MEASURED_BY, OF_TRAINING, differing_options, measured_by
from qtx.models.llama import Llama, LlamaConfig
from qtx.models.modern_bert import ModernBertConfig
from qtx.models.opt import Opt, OptConfig
from qtx.models.rotary_bert import RotaryBertConfig
from qtx.models.vit import Vit, VitConfig


def count_parameters(params: Any) -> int:
    """Counts the scalars in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


__all__ = [
    "COMPUTATION",
    "FROM_DATA",
    "MEASURED_BY",
    "OF_TRAINING",
    "Bert",
    "BertConfig",
    "Llama",
    "LlamaConfig",
    "ModernBertConfig",
    "Opt",
    "OptConfig",
    "RotaryBertConfig",
    "TransformerConfig",
    "Vit",
    "VitConfig",
    "count_parameters",
    "differing_options",
    "measured_by",
]
