"""What an attention variant is, and the named variants."""

from __future__ import annotations

import dataclasses

from qtx.attention.gates import (
    GATES,
    AllHeadsLinearGate,
    ElementwiseGate,
    Gate,
    HeadwiseGate,
    LinearGate,
    MlpGate,
)
from qtx.attention.normalizers import (
    NORMALIZERS,
    ClippedSoftmax,
    NoAttention,
    NormalizedClippedSoftmax,
    Normalizer,
    Sink,
    Softmax,
    Softmax1,
)
from qtx.foundation.config import Choice


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """A normalizer and a gate.

    In a config both are named, and their options stand beside the names: `normalizer`, `gamma`, `alpha`, ..., `gate`,
    `gate_pi`, ...

    Attributes:
      normalizer: scores to probabilities.
      gate: what the output is multiplied by; None: nothing.
    """

    normalizer: Normalizer = dataclasses.field(default=Softmax(), metadata=Choice(NORMALIZERS).metadata)
    gate: Gate | None = dataclasses.field(default=None, metadata=Choice(GATES, "gate_", none="none").metadata)


VARIANTS = {
    "softmax": AttentionConfig(),
    "clipped_softmax": AttentionConfig(ClippedSoftmax(alpha=4.0)),
    "clipped_softmax_visible": AttentionConfig(ClippedSoftmax(alpha_visible=0.5)),
    "normalized_clipped_softmax": AttentionConfig(NormalizedClippedSoftmax()),
    "softmax1": AttentionConfig(Softmax1()),
    "sink": AttentionConfig(Sink()),
    "gated_linear": AttentionConfig(gate=LinearGate(pi=0.25)),
    "gated_mlp": AttentionConfig(gate=MlpGate(pi=0.25)),
    "gated_all_heads": AttentionConfig(gate=AllHeadsLinearGate(pi=0.25)),
    "gated_headwise": AttentionConfig(gate=HeadwiseGate()),
    "gated_elementwise": AttentionConfig(gate=ElementwiseGate()),
    "none": AttentionConfig(NoAttention()),
}
"""Attention variants by the name that configs, the command line and reports use."""
