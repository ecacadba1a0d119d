"""The attention that `variant` of an expected.json names, in the words of the official code's command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qtx.attention import AttentionConfig
from qtx.attention.normalizers import ClippedSoftmax
from qtx.foundation.errors import QtxError, unknown

NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?"
VARIANT_KEYS = ("softmax", "alpha", "gate")
GATE_KEYS = ("attn_gate_type", "attn_gate_mlp", "attn_gate_linear_all_features", "attn_gate_init")
GATE_TYPES = ("none", "conditional_per_token")
# (attn_gate_mlp, attn_gate_linear_all_features) of a conditional gate -> qtx's name.
GATES = {(False, False): "linear", (True, False): "mlp", (False, True): "all_heads_linear"}


def attention_of(variant: Mapping[str, Any], length: int | None = None) -> AttentionConfig:
    """The normalizer that a model's `variant` names; its gate shows in the weights (see `check_gate`).

    `{"softmax": "vanilla", "alpha": "4.0"}` is clipped softmax with gamma = -alpha / T and zeta = 1, T = `length` the
    tokens of the inputs, all of which the official code pads to one length.

    Raises:
      QtxError: for a key or value that the official code has not, or both of its ways to clip.
    """
    _known(variant, VARIANT_KEYS, "variant")
    softmax, alpha = variant.get("softmax"), variant.get("alpha")
    clipped = re.fullmatch(rf"clipped\((-?{NUMBER}):({NUMBER})\)", str(softmax))
    if softmax != "vanilla" and clipped is None:
        raise QtxError(f"softmax variant {softmax!r}: expected 'vanilla' or 'clipped(<gamma>:<zeta>)'")
    if alpha in (None, "None"):
        if clipped is None:
            return AttentionConfig()
        # The one option of the official code that does not do as its name says.
        gamma = -0.003 if softmax == "clipped(-.005:1.005)" else float(clipped[1])
        return AttentionConfig(ClippedSoftmax(gamma=gamma, zeta=float(clipped[2])))
    if clipped is not None:
        raise QtxError(f"variant has softmax {softmax!r} and alpha {alpha!r}: expected one of them to clip")
    return AttentionConfig(ClippedSoftmax(alpha=_number("alpha", alpha), length=length))


def check_gate(variant: Mapping[str, Any], shown: str) -> None:
    """Raises QtxError unless what a model's `variant` says of its gate is the gate that its weights have.

    Args:
      variant: its `gate` has the official options, as text or as JSON has them; `attn_gate_init` shows in the weights
        alone.
      shown: the gate's name in `qtx.attention.gates.GATES`, or "none".
    """
    said = {} if variant.get("gate") is None else variant["gate"]
    _known(said, GATE_KEYS, "variant's gate")
    if "attn_gate_init" in said:
        _number("attn_gate_init", said["attn_gate_init"])
    kind = said.get("attn_gate_type", "none")
    if kind not in GATE_TYPES:
        raise unknown("attn_gate_type", kind, GATE_TYPES)
    mlp, all_features = (_flag(said, key) for key in ("attn_gate_mlp", "attn_gate_linear_all_features"))
    if kind == "none" and (mlp or all_features):
        raise QtxError("attn_gate_type is none, but there are options of a gate: expected 'conditional_per_token'")
    if (mlp, all_features) not in GATES:
        raise QtxError("attn_gate_mlp and attn_gate_linear_all_features are both true: expected one of them at most")
    expected = "none" if kind == "none" else GATES[mlp, all_features]
    if shown != expected:
        raise QtxError(f"the model's variant says gate {expected!r}, but its weights are those of gate {shown!r}")


def _number(key: str, value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise QtxError(f"{key} is {value!r}: expected a number, e.g. 4.0") from None


def _flag(said: Mapping[str, Any], key: str) -> bool:
    text = str(said.get(key, False))
    if text not in ("True", "False"):
        raise QtxError(f"{key} is {said[key]!r}: expected True or False")
    return text == "True"


def _known(values: Any, keys: tuple[str, ...], what: str) -> None:
    if not isinstance(values, Mapping):
        raise QtxError(f"the model's {what} is {values!r}: expected an object with {', '.join(keys)}")
    for key in values:
        if key not in keys:
            raise unknown(f"key in the model's {what}:", key, keys)
