"""The names that the parameters of normalizers and gates have in checkpoints.

The paper's gates have the names of its official code, where a gate predictor is called `alpha`. A normalizer's
parameter has its own name (`...self_attn.sinks`, as in gpt-oss), any other gate `gate_predictor`. All names follow the
attention layer's prefix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from qtx.attention.config import AttentionConfig
from qtx.attention.gates import AllHeadsLinearGate, DenseGate, Gate, LinearGate, MlpGate, PerHeadGate
from qtx.attention.parameters import NORMALIZER
from qtx.families.checkpoint import first_length
from qtx.families.weights import DENSE_LAYOUT, FIRST, Weight
from qtx.foundation.config import choices, registered_name
from qtx.foundation.errors import QtxError

PARAMETERS, GATE = f"layers/attention/{NORMALIZER}", "layers/attention/gate_predictor"

# Names after the attention layer's prefix. An MLP is a sequence of linear (0), ReLU (1) and linear (2).
OFFICIAL: dict[type[Gate], list[Weight]] = {
    LinearGate: [
        Weight("alpha.{head}.weight", f"{GATE}/kernel", FIRST),
        Weight("alpha.{head}.bias", f"{GATE}/bias", FIRST),
    ],
    MlpGate: [
        Weight("alpha.{head}.0.weight", f"{GATE}/hidden_kernel", DENSE_LAYOUT),
        Weight("alpha.{head}.0.bias", f"{GATE}/hidden_bias"),
        Weight("alpha.{head}.2.weight", f"{GATE}/kernel", FIRST),
        Weight("alpha.{head}.2.bias", f"{GATE}/bias", FIRST),
    ],
    AllHeadsLinearGate: [Weight("alpha.weight", f"{GATE}/kernel", DENSE_LAYOUT), Weight("alpha.bias", f"{GATE}/bias")],
}


def attention_weights(attention: AttentionConfig, prefix: str) -> list[Weight]:
    """Returns the table's rows for an attention; `prefix` is the attention layer's, with `{layer}`."""
    rows = [Weight(name, f"{PARAMETERS}/{name}") for name in attention.normalizer.parameters(1)]
    gate = attention.gate
    if gate is not None and type(gate) in OFFICIAL:
        rows += OFFICIAL[type(gate)]
    elif isinstance(gate, DenseGate):
        bias = [] if gate.initial_bias is None else [Weight("gate_predictor.bias", f"{GATE}/bias")]
        rows += [Weight("gate_predictor.weight", f"{GATE}/kernel", DENSE_LAYOUT), *bias]
    elif isinstance(gate, PerHeadGate):
        rows += [Weight(f"gate_predictor.{name}", f"{GATE}/{name}") for name in gate.parameters(1, 1)]
    return [Weight(f"{prefix}.{row.name}", row.path, row.layout) for row in rows]


def with_gate(attention: AttentionConfig, tensors: Mapping[str, Any], prefix: str) -> AttentionConfig:
    """Returns the attention with the official gate that a checkpoint's first layer shows by the names and shapes of its
    weights, if it shows one.

    Raises:
      QtxError: if another gate is asked for.
    """
    shown, asked, gates = _shown(tensors, prefix), attention.gate, choices(AttentionConfig)["gate"]
    if asked is None:
        return dataclasses.replace(attention, gate=shown)
    if type(asked) is not type(shown) and (shown is not None or type(asked) in OFFICIAL):
        found = gates.none if shown is None else registered_name(gates.registry, type(shown))
        raise QtxError(f"gate {gates.name_of(asked)!r} is asked for, but the weights show {found!r}")
    if isinstance(asked, MlpGate) and isinstance(shown, MlpGate) and asked.hidden != shown.hidden:
        raise QtxError(f"gate_hidden {asked.hidden} is asked for, but the weights show {shown.hidden}")
    return attention


def _shown(tensors: Mapping[str, Any], prefix: str) -> Gate | None:
    """Returns the official gate that tensors show, with the option that their shapes tell; None: they show none."""
    for gate, rows in OFFICIAL.items():
        names = [f"{prefix}.{name}" for row in rows for _, name in row.names({"head": 1})]
        names = [name.format(layer=0) for name in names]
        if all(name in tensors for name in names):
            return MlpGate(hidden=first_length(tensors[names[0]])) if gate is MlpGate else gate()
    return None
