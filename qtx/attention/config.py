"""This module defines what an attention variant is, and the named variants."""

from __future__ import annotations

import dataclasses
from typing import Self

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
    Elastic,
    Entmax15,
    NoAttention,
    NormalizedClippedSoftmax,
    Normalizer,
    Relu,
    ScalableSoftmax,
    Sigmoid,
    Sink,
    Softmax,
    Softmax1,
    Softpick,
    Sparsemax,
)
from qtx.foundation.config import Choice, field_types, flattened, read_section
from qtx.foundation.errors import QtxError, lookup, unknown
from qtx.foundation.variants import join_variant, split_variant


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """An attention variant: a normalizer and, perhaps, a gate.

    In a config both are named, and their options stand beside the names: `normalizer`, `gamma`, `alpha`, ..., `gate`,
    `gate_pi`, ...

    Attributes:
      normalizer: turns scores into probabilities.
      gate: multiplies the context or the values; None: there is no gate.
    """

    normalizer: Normalizer = dataclasses.field(default=Softmax(), metadata=Choice(NORMALIZERS).metadata)
    gate: Gate | None = dataclasses.field(default=None, metadata=Choice(GATES, "gate_", none="none").metadata)

    def trained_at(self, length: int) -> Self:
        """Returns the variant in a model that is trained at `length` tokens (see `Normalizer.trained_at`)."""
        return dataclasses.replace(self, normalizer=self.normalizer.trained_at(length))


VARIANTS = {
    "softmax": AttentionConfig(),
    "clipped_softmax": AttentionConfig(ClippedSoftmax(alpha=4.0)),
    "clipped_softmax_visible": AttentionConfig(ClippedSoftmax(alpha_visible=0.5)),
    "normalized_clipped_softmax": AttentionConfig(NormalizedClippedSoftmax()),
    "softmax1": AttentionConfig(Softmax1()),
    "sink": AttentionConfig(Sink()),
    "elastic": AttentionConfig(Elastic()),
    "softpick": AttentionConfig(Softpick()),
    "sigmoid": AttentionConfig(Sigmoid()),
    "relu": AttentionConfig(Relu()),
    "scalable_softmax": AttentionConfig(ScalableSoftmax()),
    "sparsemax": AttentionConfig(Sparsemax()),
    "entmax15": AttentionConfig(Entmax15()),
    "gated_linear": AttentionConfig(gate=LinearGate(pi=0.25)),
    "gated_mlp": AttentionConfig(gate=MlpGate(pi=0.25)),
    "gated_all_heads": AttentionConfig(gate=AllHeadsLinearGate(pi=0.25)),
    "gated_headwise": AttentionConfig(gate=HeadwiseGate()),
    "gated_elementwise": AttentionConfig(gate=ElementwiseGate()),
    "none": AttentionConfig(NoAttention()),
}
"""Attention variants by the name that configs, the command line and reports use."""


def attention_variant(text: str) -> AttentionConfig:
    """Returns the attention that a variant's text names: a name in `VARIANTS`, then options after commas.

    `"softmax"` and `"clipped_softmax,alpha=4,gamma_warmup_steps=200"` are variants. An option that the text gives
    replaces the registered variant's; `None` unsets an option: `"clipped_softmax,alpha=None,gamma=-0.03"`.

    Raises:
      QtxError: for an unknown variant or option, or options that do not fit the variant.
    """
    name, options = split_variant(text, "attention variant")
    known = field_types(AttentionConfig)
    values = flattened(lookup(VARIANTS, "attention variant", name), defaults=False)
    for key in options:
        if key not in known:
            raise unknown(f"option in the attention variant {text!r}:", key, known)
    try:
        return read_section(AttentionConfig, values | options, "config.model.attention")
    except QtxError as error:
        raise QtxError(f"attention variant {text!r}: {error}") from None


def attention_text(attention: AttentionConfig) -> str:
    """Returns an attention's text, by the registered variant nearest to it: the inverse of `attention_variant`."""
    given = flattened(attention, defaults=False)

    def options(name: str) -> dict[str, object]:
        registered = flattened(VARIANTS[name], defaults=False)
        return {key: value for key, value in given.items() if value != registered[key]}

    def distance(name: str) -> tuple[int, int]:
        return len(options(name).keys() & {"normalizer", "gate"}), len(options(name))

    name = min(VARIANTS, key=distance)
    return join_variant(name, options(name))
