"""The recipe of linear layers alone: what they multiply, and the embedding tables; all else is in floating point."""

from __future__ import annotations

import dataclasses

from qtx.models import TransformerConfig
from qtx.parts import Part
from qtx.quantization.granularity import Tensor
from qtx.quantization.recipe import Quantizer, Recipe, Rule

READ = (Part.NORM, Part.CONTEXT, Part.HIDDEN)
"""What the linear layers of a transformer's blocks read."""


def matmul(config: TransformerConfig, weight: Quantizer, activation: Quantizer) -> Recipe:
    """Makes the recipe of any family, the cheapest that runs nearly all products on integers: attention's own products
    gain next to nothing by them on a CPU, and sums and norms nothing. A head and a gate stay in floating point."""
    head, gate, left = (Rule(pattern, None, optional=True) for pattern in (Part.HEAD, Part.GATE, "*"))
    variant = config.attention.gate
    gated = variant is not None and variant.place == "context"
    before = [Rule("*layers/attention/context", None)] if gated else []
    last = Rule("final_norm", None, optional=True)  # which the head alone reads
    read = (Rule(part, activation, optional=True) for part in READ)
    # A runtime looks up integers of one grid.
    table = dataclasses.replace(weight, granularity=Tensor())
    kernels, tables = Rule("*/kernel", weight), Rule("*embedding", table, optional=True)
    return Recipe((head, gate, kernels, tables, left), (head, gate, last, *before, *read, left))
