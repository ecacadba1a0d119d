"""What every gate shares: the initial openness and the output scale."""

from __future__ import annotations

import abc
import dataclasses
import math

import jax

from qtx.errors import QtxError


@dataclasses.dataclass(frozen=True)
class Gate(abc.ABC):
    """Gated attention (Bondarenko et al. 2023, eq. 5): scale * sigmoid(G(x)) * attention(x).

    Attributes:
      pi: initial openness; the output bias starts at b with sigmoid(b) = pi.
      scale: factor on the gated output. Fine-tuning a trained model starts from the original network with pi = 0.5 and
        scale = 2 (the paper's appendix B.6).

    Raises:
      QtxError: if pi is not in (0, 1) or scale is not positive.
    """

    pi: float = 0.5
    scale: float = 1.0

    def __post_init__(self):
        if not 0 < self.pi < 1:
            raise QtxError(f"gate_pi is {self.pi}: expected an initial openness between 0 and 1, e.g. 0.5")
        if not 0 < self.scale < math.inf:
            raise QtxError(f"gate_scale is {self.scale}: expected a positive factor, e.g. 1.0")

    @property
    def initial_bias(self) -> float:
        """b with sigmoid(b) = pi."""
        return math.log(self.pi / (1 - self.pi))

    @abc.abstractmethod
    def shapes(self, num_heads: int, head_dim: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of each parameter."""

    @abc.abstractmethod
    def __call__(self, parameters: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        """Gate logits `[B, T, H]` from the attention input split into heads, `x` `[B, T, H, D]`."""
