"""Quantizers of the paper's official code by name, and the qtx sites and weights that they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from qtx.families import FAMILIES
from qtx.quantization import Quantized, make_grid

WEIGHT, ACTIVATION = ".weight_quantizer", ".activation_quantizer"
PREFIX = {"bert": "bert.", "opt": "model.decoder."}
BERT_LAYER, OPT_LAYER = "bert.encoder.layer.{layer}", "model.decoder.layers.{layer}"

# Quantized wrappers that the official code names otherwise than the layer whose weight they hold.
WRAPPED = {
    f"{BERT_LAYER}.intermediate.0": f"{BERT_LAYER}.intermediate.dense",
    f"{OPT_LAYER}.fc1_act": f"{OPT_LAYER}.fc1",
    "model.decoder.embed_positions.quant_embedding": "model.decoder.embed_positions",
}

# Activation quantizers that are not the output of the layer whose weight has the same name.
SITES = {
    "bert.embeddings.sum_input_token_type_embd_act_quantizer": "embeddings/token_type_sum",
    "bert.embeddings.sum_pos_embd_act_quantizer": "embeddings/sum",
    f"{BERT_LAYER}.attention.self.attn_scores_act_quantizer": "layers/attention/scores",
    f"{BERT_LAYER}.attention.self.attn_probs_act_quantizer": "layers/attention/probs",
    f"{BERT_LAYER}.attention.self.context_act_quantizer": "layers/attention/context",
    f"{BERT_LAYER}.attention.output.res_act_quantizer": "layers/attention_residual",
    f"{BERT_LAYER}.intermediate.0": "layers/mlp/hidden",
    f"{BERT_LAYER}.output.res_act_quantizer": "layers/mlp_residual",
    "model.decoder.embed_sum_act_quantizer": "embeddings/sum",
    f"{OPT_LAYER}.self_attn.attn_scores_act_quantizer": "layers/attention/scores",
    f"{OPT_LAYER}.self_attn.attn_probs_act_quantizer": "layers/attention/probs",
    f"{OPT_LAYER}.self_attn.context_act_quantizer": "layers/attention/context",
    f"{OPT_LAYER}.self_attn_res_act_quantizer": "layers/attention_residual",
    f"{OPT_LAYER}.fc1_act": "layers/mlp/hidden",
    f"{OPT_LAYER}.ffn_res_act_quantizer": "layers/mlp_residual",
}


@dataclasses.dataclass(frozen=True)
class RangeError:
    """How far a quantizer's range is from the official one.

    Attributes:
      site: the qtx site or weight, with the layer in brackets, e.g. `"layers/attention/probs[0]"`.
      ends: distance of both ends of the grid in quantization steps; empty if only one implementation has the range.
    """

    site: str
    ends: tuple[float, ...]

    @property
    def largest(self) -> float:
        """The larger distance; infinite if only one implementation has the range."""
        return max(self.ends, default=float("inf"))


def range_errors(quantized: Quantized, family: str, official: Mapping[str, Mapping[str, Any]]) -> list[RangeError]:
    """Compares the ranges of a calibrated model with the official ones.

    Args:
      quantized: ours.
      family: `"bert"` or `"opt"`.
      official: quantizer name to `x_min` and `x_max` (the ends of its grid) and `bits`.

    Returns:
      One entry for every range that either has.
    """
    ours, sites = _grid_ends(quantized), _sites(quantized, family)
    theirs = {sites.get(name, name): answer for name, answer in official.items()}
    result = [RangeError(site, ()) for site in ours.keys() ^ theirs.keys()]
    for site in ours.keys() & theirs.keys():
        answer = theirs[site]
        step = (answer["x_max"] - answer["x_min"]) / (2 ** answer["bits"] - 1)
        distances = (abs(end - answer[name]) / step for name, end in zip(("x_min", "x_max"), ours[site], strict=True))
        result.append(RangeError(site, tuple(distances)))
    return result


def _sites(quantized: Quantized, family: str) -> dict[str, str]:
    """Every official quantizer's name to ours, layer by layer."""
    config = quantized.module.config
    unwrapped = {wrapped: name for name, wrapped in WRAPPED.items()}
    result = {}
    for weight in FAMILIES[family].checkpoints[0].weights(config):
        if weight.name.endswith(".weight"):
            name = weight.name.removesuffix(".weight")
            name = unwrapped.get(name, name)
            result[name + WEIGHT] = weight.path
            result[name + ACTIVATION] = SITES.get(name, weight.path.rsplit("/", 1)[0])
    result |= {name + ACTIVATION: site for name, site in SITES.items() if name.startswith(PREFIX[family])}
    # The official BERT quantizes a gated context after the gate.
    after_gate = "layers/attention/gated_context"
    if after_gate in quantized.activation_ranges:
        result = {name: after_gate if site == "layers/attention/context" else site for name, site in result.items()}
    return {
        name.format(layer=layer): f"{site}[{layer}]" if "{layer}" in name else site
        for name, site in result.items()
        for layer in range(config.num_layers)
    }


def _grid_ends(quantized: Quantized) -> dict[str, tuple[float, float]]:
    """Smallest and largest representable value of every quantized site and weight."""
    symmetric = {planned.path: planned.symmetric for planned in (*quantized.weight_plan, *quantized.activation_plan)}
    result = {}
    for path, r in {**quantized.weight_ranges, **quantized.activation_ranges}.items():
        low, high = (np.asarray(end) for end in make_grid(r["minimum"], r["maximum"], r["bits"], symmetric[path]).ends)
        for layer in range(low.size):
            site = f"{path}[{layer}]" if low.ndim else path
            result[site] = (float(low.flat[layer]), float(high.flat[layer]))
    return result
