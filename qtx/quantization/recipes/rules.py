"""The last rules of a recipe: every weight but biases, every activation, at the granularity that each can have."""

from __future__ import annotations

import dataclasses

from qtx.parts import Part
from qtx.quantization.granularity import Channel, InputGroup, Tensor
from qtx.quantization.recipe import Quantizer, Rule

EMBEDDING_WIDE = (Part.EMBEDDED, Part.NORM, Part.RESIDUAL, Part.BRANCH)
"""The sites as wide as the embedding, where outliers sit in a few dimensions (Bondarenko et al. 2021)."""


def weight_rules(weight: Quantizer) -> tuple[Rule, ...]:
    """Returns rules for all weights but biases; vectors, which have no channels, are quantized per tensor, and tables,
    which no input meets, per channel where kernels have groups of inputs."""
    per_tensor = dataclasses.replace(weight, granularity=Tensor())
    class_token = Rule("*embeddings/class_token", per_tensor, optional=True)
    grouped = isinstance(weight.granularity, InputGroup)
    per_channel = dataclasses.replace(weight, granularity=Channel())
    tables = [Rule(path, per_channel, optional=True) for path in ("*embedding", "*embeddings/positions") if grouped]
    return (Rule("*bias", None, optional=True), Rule("*/scale", per_tensor), class_token, *tables, Rule("*", weight))


def activation_rules(activation: Quantizer) -> tuple[Rule, ...]:
    """Returns rules for all activations; ranges are by dimension only where a dimension has a meaning of its own."""
    if not isinstance(activation.granularity, Channel):
        return (Rule("*", activation),)
    per_tensor = dataclasses.replace(activation, granularity=Tensor())
    last = Rule("final_norm", per_tensor, optional=True)  # which the head alone reads
    return (last, *(Rule(part, activation, optional=True) for part in EMBEDDING_WIDE), Rule("*", per_tensor))
