"""The recipes of the paper's experiments: BERT's and OPT's with the quirks of its official code, ViT's by its text.

Quantized: every dense layer's output (the first of the MLP only after its activation), LayerNorm outputs and scales,
embedding tables, embedding sums, scores before the mask, probabilities, context, residual sums. Not quantized: biases,
the gate and its predictor, and BERT's and OPT's heads.

`count_padding` makes ranges of all values, also those of padding and of keys that a query does not see, as the official
code does; only a comparison with that code needs it.
"""

from __future__ import annotations

import dataclasses

from qtx.models import TransformerConfig
from qtx.parts import Part
from qtx.quantization.recipe import Quantizer, Recipe, Rule
from qtx.quantization.recipes.rules import activation_rules, weight_rules


def _paper(
    config: TransformerConfig, weight: Quantizer, activation: Quantizer, *, left: str, count_padding: bool
) -> Recipe:
    """Makes the common part; of a gated layer's context and gated_context, `left` stays in floating point."""
    activation = dataclasses.replace(activation, count_padding=count_padding)
    gate = config.attention.gate
    predictor = () if gate is None else (Rule(Part.GATE, None),)
    unread = (Rule(f"*layers/attention/{left}", None),) if gate is not None and gate.place == "context" else ()
    before = Rule(Part.PREACTIVATION, None)
    return Recipe(
        weights=(*predictor, *weight_rules(weight)),
        activations=(*predictor, *unread, before, *activation_rules(activation)),
    )


def paper_bert(
    config: TransformerConfig, weight: Quantizer, activation: Quantizer, *, count_padding: bool = False
) -> Recipe:
    """Makes BERT's recipe: a head stays in floating point as a whole; a gated context is quantized after the gate."""
    body = _paper(config, weight, activation, left="context", count_padding=count_padding)
    head = Rule(Part.HEAD, None, optional=getattr(config, "head", None) == "none")
    return Recipe((head, *body.weights), (head, *body.activations))


def paper_opt(
    config: TransformerConfig, weight: Quantizer, activation: Quantizer, *, count_padding: bool = False
) -> Recipe:
    """Makes OPT's recipe: the tied head stays in floating point; the context is quantized before the gate."""
    body = _paper(config, weight, activation, left="gated_context", count_padding=count_padding)
    return Recipe(body.weights, (Rule(Part.HEAD, None), *body.activations))


def paper_llama(
    config: TransformerConfig, weight: Quantizer, activation: Quantizer, *, count_padding: bool = False
) -> Recipe:
    """Makes the recipe of decoders after Llama, by analogy to OPT's: the head stays in floating point, tied or not, and
    so do both projections before an activation and their product's factors."""
    head = Rule(Part.HEAD, None, optional=True)
    body = _paper(config, weight, activation, left="gated_context", count_padding=count_padding)
    return Recipe((head, *body.weights), (head, *body.activations))


def paper_vit(
    config: TransformerConfig, weight: Quantizer, activation: Quantizer, *, count_padding: bool = False
) -> Recipe:
    """Makes ViT's recipe: as BERT's, but the classifier is quantized too (only BERT's and OPT's heads are not)."""
    return _paper(config, weight, activation, left="context", count_padding=count_padding)
