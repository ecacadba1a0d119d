"""The strict recipe: only the head stays in floating point, as an integer accelerator would have to run a model."""

from __future__ import annotations

import dataclasses

from qtx.attention.gates import PerHeadGate
from qtx.models import TransformerConfig
from qtx.parts import Part
from qtx.quantization.granularity import Tensor
from qtx.quantization.recipe import Quantizer, Recipe, Rule
from qtx.quantization.recipes.rules import activation_rules, weight_rules


def strict(config: TransformerConfig, weight: Quantizer, activation: Quantizer) -> Recipe:
    """Makes the recipe of any family: all weights but biases (which integer hardware adds in 32 bits) and the head's,
    the gate's predictor included; all sites but the head's, including the MLP's pre-activations, gate, context and
    gated context."""
    predictor = dataclasses.replace(weight, granularity=Tensor())
    # A dense predictor is a layer like any other.
    per_head = isinstance(config.attention.gate, PerHeadGate)
    gate_weights = (Rule("*bias", None), Rule(Part.GATE, predictor)) if per_head else ()
    # A head that is the embedding table alone (OPT's) has no weight of its own, and an encoder may have no head.
    head = Rule(Part.HEAD, None, optional=True)
    return Recipe(
        weights=(head, *gate_weights, *weight_rules(weight)),
        activations=(head, *activation_rules(activation)),
    )
