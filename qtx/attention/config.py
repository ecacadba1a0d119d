"""One flat group of options for any attention variant, made from the registries, and the named variants."""

from __future__ import annotations

import dataclasses
from typing import Any

from qtx.attention.gates import GATES, Gate
from qtx.attention.normalizers import NORMALIZERS
from qtx.config import field_types
from qtx.errors import QtxError, lookup


def _options(registry: dict[str, Any], prefix: str) -> dict[str, dict[str, type]]:
    """Variant name to its options as they appear in the flat config."""
    return {
        name: {prefix + option: kind for option, (kind, _) in field_types(cls).items()}
        for name, cls in registry.items()
    }


NORMALIZER_OPTIONS = _options(NORMALIZERS, "")
GATE_OPTIONS = _options(GATES, "gate_") | {"none": {}}
_ALL = {k: v for options in (*NORMALIZER_OPTIONS.values(), *GATE_OPTIONS.values()) for k, v in options.items()}

_FlatOptions: Any = dataclasses.make_dataclass(
    "_FlatOptions", [(name, kind | None, None) for name, kind in _ALL.items()], frozen=True, kw_only=True
)


@dataclasses.dataclass(frozen=True)
class AttentionConfig(_FlatOptions):
    """A normalizer, a gate, and the options of both; an option left at None takes its variant's default.

    The options are those of the registered normalizers (`gamma`, `zeta`, `alpha`, `gamma_warmup_steps`) and, after
    `gate_`, of the registered gates (`gate_pi`, `gate_scale`, `gate_hidden`).

    Raises:
      QtxError: for an unknown variant, an option that the chosen variant does not take, or a bad value.
    """

    normalizer: str = "softmax"
    gate: str = "none"

    def __post_init__(self):
        allowed = set(lookup(NORMALIZER_OPTIONS, "normalizer", self.normalizer))
        allowed |= set(lookup(GATE_OPTIONS, "gate", self.gate))
        for option in _ALL:
            if getattr(self, option) is not None and option not in allowed:
                owners = [n for n, o in {**NORMALIZER_OPTIONS, **GATE_OPTIONS}.items() if option in o]
                raise QtxError(
                    f"{option} is set, but normalizer {self.normalizer!r} with gate {self.gate!r} does not take it: "
                    f"it belongs to {', '.join(owners)}"
                )
        _ = self.make_normalizer(), self.make_gate()

    def _given(self, options: dict[str, type], prefix: str) -> dict[str, Any]:
        return {o.removeprefix(prefix): getattr(self, o) for o in options if getattr(self, o) is not None}

    def resolved(self) -> AttentionConfig:
        """The same attention, options left at None at their variant's defaults; None says only what it means there."""
        values = {"normalizer": self.normalizer, "gate": self.gate}
        gate = (self.make_gate(), GATE_OPTIONS[self.gate], "gate_")
        for variant, options, prefix in ((self.make_normalizer(), NORMALIZER_OPTIONS[self.normalizer], ""), gate):
            values |= {option: getattr(variant, option.removeprefix(prefix)) for option in options}
        return AttentionConfig(**values)

    def make_normalizer(self) -> Any:
        """The chosen normalizer with its options."""
        return NORMALIZERS[self.normalizer](**self._given(NORMALIZER_OPTIONS[self.normalizer], ""))

    def make_gate(self) -> Gate | None:
        """The chosen gate with its options, or None."""
        return None if self.gate == "none" else GATES[self.gate](**self._given(GATE_OPTIONS[self.gate], "gate_"))


VARIANTS = {
    "softmax": AttentionConfig(),
    "clipped_softmax": AttentionConfig(normalizer="clipped_softmax", alpha=4.0),
    "gated_linear": AttentionConfig(gate="linear", gate_pi=0.25),
    "gated_mlp": AttentionConfig(gate="mlp", gate_pi=0.25),
    "gated_all_heads": AttentionConfig(gate="all_heads_linear", gate_pi=0.25),
    "none": AttentionConfig(normalizer="none"),
}
"""Attention variants by the name that configs, the command line and reports use."""
