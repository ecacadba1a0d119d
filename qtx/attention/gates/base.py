"""The base classes of gates: the initial openness, the output scale, what a gate reads and what it is put on."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated

import jax

from qtx.attention.parameters import Parameters
from qtx.foundation.limits import Checked, check, one_of, positive, within

INPUTS = ("normed", "residual")
PLACES = ("context", "values")
OPENNESS = within("(0, 1)", "an initial openness between 0 and 1, e.g. 0.5")


@dataclasses.dataclass(frozen=True)
class Gate(Checked):
    """Gated attention (Bondarenko et al. 2023, eq. 5): scale * sigmoid(G(x)) * attention(x).

    Attributes:
      scale: the factor on the gated output. Fine-tuning a trained model starts from the original network with pi = 0.5
        and scale = 2 (the paper's appendix B.6).
      input: what x is: "normed", what the queries are made of too (the paper; in a pre-LN model the LayerNorm's
        output), or "residual", the block's input before any LayerNorm.
      place: what is gated: "context", the probabilities times the values (the paper), or "values", each token's value
        before other tokens read it.
    """

    scale: Annotated[float, positive("e.g. 1.0")] = 1.0
    input: Annotated[str, one_of(INPUTS)] = "normed"
    place: Annotated[str, one_of(PLACES)] = "context"

    def __post_init__(self):
        check(self, prefix="gate_")

    @property
    def initial_openness(self) -> float:
        """Returns the openness everywhere while the last layer's `kernel` is 0: pi, or a half without a bias."""
        return 0.5


def bias_of(pi: float) -> float:
    """Returns the bias b with sigmoid(b) = pi, an initial openness in (0, 1)."""
    return math.log(pi / (1 - pi))


@dataclasses.dataclass(frozen=True)
class BiasedGate(Gate):
    """A gate whose logits have a bias, which says how open it is at first.

    Attributes:
      pi: the initial openness; the bias starts at `bias_of(pi)`.
    """

    pi: Annotated[float, OPENNESS] = 0.5

    @property
    def initial_openness(self):
        return self.pi


class PerHeadGate(BiasedGate, abc.ABC):
    """A gate whose function for each head sees the head's own slice of the input."""

    @abc.abstractmethod
    def parameters(self, num_heads: int, head_dim: int) -> Parameters:
        """Describes the parameters of one layer's gate, by name; `kernel` and `bias` are those of its last layer."""

    @abc.abstractmethod
    def __call__(self, parameters: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
        """Computes gate logits `[B, T, H, 1]`, one for a head, or `[B, T, H, D]`, one for each of its dimensions, from
        the input split into heads, `x` `[B, T, H, D]`."""

    def pytorch(self, own: str) -> str:
        """Writes in PyTorch (`qtx.interop.modeling`) the lines that make `logits` `[B, T, HEADS, 1 or HEAD_DIM]` of `x`
        `[B, T, HEADS, HEAD_DIM]`. Each class writes its own lines: a base class's do not count.

        Args:
          own: the prefix of the gate's parameters: an official gate's are `f"{own}.alpha"`, a module for each head
            (`qtx.families.attention_weights`); another's are `f"{own}.gate_predictor"`, a dictionary by their names.
        """
        raise NotImplementedError


def module_per_head(own: str) -> str:
    """Writes the PyTorch lines of the paper's gates: each head's own module on its slice of the input."""
    return f"logits = torch.stack([alpha(x[..., head, :]) for head, alpha in enumerate({own}.alpha)], -2)"


class DenseGate(Gate, abc.ABC):
    """A gate that sees the whole input, by one dense layer, which is split over devices, rounded by GPTQ and run on
    integers as all other dense layers are."""

    @property
    def initial_bias(self) -> float | None:
        """Returns the initial bias of the layer; None: it has no bias, so that the gate starts about half open."""
        return None

    @abc.abstractmethod
    def logits_per_head(self, head_dim: int) -> int:
        """Returns how many logits a head of `head_dim` dimensions has: 1, or one for each dimension."""
