"""The recipes of the paper's experiments: BERT's and OPT's with the quirks of its official code, ViT's by its text.

Quantized: every dense layer's output (the first of the MLP only after its activation), LayerNorm outputs and scales,
embedding tables, embedding sums, scores before the mask, probabilities, context, residual sums. Not quantized: biases,
the gate and its predictor, and BERT's and OPT's heads.

`count_padding` makes ranges of all values, also those of padding and of keys that a query does not see, as the official
code does; only a comparison with that code needs it.
"""

from __future__ import annotations

import dataclasses

from qtx.attention.gates import DenseGate
from qtx.models import TransformerConfig
from qtx.quantization.recipe import Quantizer, Recipe, Rule
from qtx.quantization.recipes.rules import activation_rules, weight_rules


def _paper(
    config: TransformerConfig, weight: Quantizer, activation: Quantizer, *, left: str, count_padding: bool
) -> Recipe:
    """Makes the common part; of a gated layer's context and gated_context, `left` stays in floating point."""
    activation = dataclasses.replace(activation, count_padding=count_padding)
    gate, predictor, sites = config.attention.gate, [], []
    if gate is not None:
        predictor, sites = ["gate_predictor/*"], ["gate"]
        sites += ["gate_predictor"] if isinstance(gate, DenseGate) else []
        sites += [left] if gate.place == "context" else []

    def in_floating_point(paths: list[str]) -> list[Rule]:
        return [Rule(f"*layers/attention/{path}", None) for path in paths]

    return Recipe(
        weights=(*in_floating_point(predictor), *weight_rules(weight)),
        activations=(*in_floating_point(sites), Rule("*layers/mlp/in", None), *activation_rules(activation)),
    )


def paper_bert(
    config: TransformerConfig, weight: Quantizer, activation: Quantizer, *, count_padding: bool = False
) -> Recipe:
    """Makes BERT's recipe: a head stays in floating point as a whole; a gated context is quantized after the gate."""
    body = _paper(config, weight, activation, left="context", count_padding=count_padding)
    head = Rule("head/*", None, optional=getattr(config, "head", None) == "none")
    return Recipe((head, *body.weights), (head, *body.activations))


def paper_opt(
    config: TransformerConfig, weight: Quantizer, activation: Quantizer, *, count_padding: bool = False
) -> Recipe:
    """Makes OPT's recipe: the tied head stays in floating point; the context is quantized before the gate."""
    body = _paper(config, weight, activation, left="gated_context", count_padding=count_padding)
    return Recipe(body.weights, (Rule("head/*", None), *body.activations))


def paper_vit(
    config: TransformerConfig, weight: Quantizer, activation: Quantizer, *, count_padding: bool = False
) -> Recipe:
    """Makes ViT's recipe: as BERT's, but the classifier is quantized too (only BERT's and OPT's heads are not)."""
    return _paper(config, weight, activation, left="context", count_padding=count_padding)
