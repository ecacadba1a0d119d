"""Which site's output each matrix product of a block multiplies."""

from __future__ import annotations

import dataclasses

from qtx.quantization.weights import STACK

INPUT = f"{STACK}input"
"""What enters a block, as a site: its grid is that of the layer before."""


@dataclasses.dataclass(frozen=True)
class Wiring:
    """The products of a block.

    Attributes:
      pre_norm: LayerNorms on the branches; otherwise a block's input is the last LayerNorm's output of the one before.
      gated: the attention has a gate.
    """

    pre_norm: bool
    gated: bool

    @property
    def inputs(self) -> dict[str, str]:
        """Each dense layer and the site that it multiplies."""
        attention = f"{STACK}attention_norm" if self.pre_norm else INPUT
        mlp = f"{STACK}mlp_norm" if self.pre_norm else f"{STACK}attention_norm"
        context = f"{STACK}attention/{'gated_context' if self.gated else 'context'}"
        return {
            **{f"{STACK}attention/{name}": attention for name in ("query", "key", "value")},
            f"{STACK}attention/out": context,
            f"{STACK}mlp/in": mlp,
            f"{STACK}mlp/out": f"{STACK}mlp/hidden",
        }

    @property
    def products(self) -> dict[str, tuple[str, str]]:
        """Each product of two activations and the sites that it multiplies."""
        attention = f"{STACK}attention"
        return {
            f"{attention}/scores": (f"{attention}/query", f"{attention}/key"),
            f"{attention}/context": (f"{attention}/probs", f"{attention}/value"),
        }

    @property
    def operands(self) -> set[str]:
        """Every site that a product multiplies."""
        return {*self.inputs.values(), *(site for pair in self.products.values() for site in pair)}
