"""Bits of their own for keys and values, as a cache of them holds them."""

from __future__ import annotations

import dataclasses
import re

from qtx.models import TransformerConfig
from qtx.quantization.estimators import MinMax
from qtx.quantization.granularity import TokenGroup
from qtx.quantization.recipe import Quantizer, Recipe, Rule

SCHEME = r"w(\d+)a(\d+)(?:kv([2-9]|1[0-6]))?"
"""The text of a scheme: the bits of weights, of activations and, perhaps, of cached keys and values."""


def with_cache(recipe: Recipe, config: TransformerConfig, scheme: str) -> Recipe:
    """Returns the recipe with cached keys and values at the bits that a scheme gives them, asymmetric, with a range for
    each token and head, found as it comes; without such bits, the recipe as it is.

    What is cached are the keys that meet queries: after their norms and rotary positions, if there are any; and the
    values, after a gate of them. Other keys and values stay as the recipe says.
    """
    match = re.fullmatch(SCHEME, scheme)
    if match is None or match[3] is None:
        return recipe
    spec, gate = config.attention_spec, config.attention.gate
    size = spec.head_dim or config.width // config.num_heads
    cached = Quantizer(int(match[3]), False, MinMax(), TokenGroup(size))
    turned = config.qk_norm or "frequencies" in config.per_layer
    names = ("rotated_key" if turned else "key", "gated_value" if gate and gate.place == "values" else "value")
    rules = tuple(Rule(f"*attention/{name}", cached) for name in names)
    return dataclasses.replace(recipe, activations=(*rules, *recipe.activations))
