"""Names of gate weights in checkpoints of the paper's official code, where a gate predictor is called `alpha`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qtx.interop.weights import FIRST, KERNEL, Weight

PATH = "layers/attention/gate_predictor"

# Per kind of gate, after the attention layer's prefix. An MLP is a sequence of linear (0), ReLU (1) and linear (2).
GATE_WEIGHTS = {
    "linear": [
        Weight("alpha.{head}.weight", f"{PATH}/kernel", FIRST),
        Weight("alpha.{head}.bias", f"{PATH}/bias", FIRST),
    ],
    "mlp": [
        Weight("alpha.{head}.0.weight", f"{PATH}/hidden_kernel", KERNEL),
        Weight("alpha.{head}.0.bias", f"{PATH}/hidden_bias"),
        Weight("alpha.{head}.2.weight", f"{PATH}/kernel", FIRST),
        Weight("alpha.{head}.2.bias", f"{PATH}/bias", FIRST),
    ],
    "all_heads_linear": [
        Weight("alpha.weight", f"{PATH}/kernel", KERNEL),
        Weight("alpha.bias", f"{PATH}/bias"),
    ],
    "none": [],
}


def gate_weights(kind: str, prefix: str) -> list[Weight]:
    """The table's rows for a kind of gate; `prefix` is the attention layer's, with `{layer}`."""
    return [Weight(f"{prefix}.{weight.name}", weight.path, weight.layout) for weight in GATE_WEIGHTS[kind]]


def infer_gate(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, str | int]:
    """The gate options that a checkpoint's first layer shows by the names and shapes of its weights.

    Returns:
      Fields of `AttentionConfig`: `gate`, and `gate_hidden` of an MLP.
    """
    for kind in GATE_WEIGHTS:
        names = [name for weight in gate_weights(kind, prefix) for _, name in weight.names({"layer": 1, "head": 1})]
        if all(name in tensors for name in names):
            break
    return {"gate": kind} | ({"gate_hidden": tensors[names[0]].shape[0]} if kind == "mlp" else {})
