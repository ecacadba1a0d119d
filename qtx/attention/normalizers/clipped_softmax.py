"""Clipped softmax (Bondarenko et al. 2023, eq. 4): probabilities stretched to (gamma, zeta), then clipped to [0, 1]."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import jax.numpy as jnp

from qtx.attention.normalizers.base import SoftmaxLike, clipped
from qtx.foundation.errors import QtxError
from qtx.foundation.limits import at_least, within

WAYS = ("gamma", "alpha", "alpha_visible")


@dataclasses.dataclass(frozen=True)
class ClippedSoftmax(SoftmaxLike):
    """Clipped softmax, clip((zeta - gamma) softmax(x) + gamma, 0, 1): exact zeros and ones at finite scores, so that a
    head can do nothing.

    Attributes:
      gamma: the lower stretch, <= 0. Give one of `gamma`, `alpha` and `alpha_visible`.
      zeta: the upper stretch, >= 1.
      alpha: gamma = -alpha / length, which lets one value fit models of every sequence length (the paper's section 4.1;
        2 to 4 work at every length).
      alpha_visible: gamma_i = -alpha_visible / t_i for the t_i keys that row i sees. The first rows of a causal model
        see few keys, which -alpha / T hardly clips, and the rows of padded or packed examples fewer than T. From 1 on a
        row that attends uniformly is clipped to 0, at every length. (Nearest relative: elastic softmax, arXiv
        2601.00919, relu(p + tau_h / i) with tau_h learned.)
      gamma_warmup_steps: gamma grows linearly from 0 over this many training steps. A freshly initialized narrow model
        attends almost uniformly (p = 1/T), and any gamma below about -1/T then clips every probability to 0, where no
        gradient flows; the warm-up lets attention form first.
      length: the T tokens that the model is trained at, for `alpha`. It stays as training began: on a shorter or padded
        text, gamma is the same. None: the experiment's, from its data or the image's patches.

    Raises:
      QtxError: if not just one of the three is given, or length without alpha.
    """

    warmup = "gamma_warmup_steps"

    gamma: Annotated[float | None, within("(-1e6, 0]", "gamma <= 0, e.g. -0.03")] = None
    zeta: Annotated[float, within("[1, 1e6)", "zeta >= 1, e.g. 1.0")] = 1.0
    alpha: Annotated[float | None, within("[0, 1e6)", "alpha >= 0 (gamma = -alpha / T), e.g. 4")] = None
    gamma_warmup_steps: Annotated[int, at_least(0)] = 0
    alpha_visible: Annotated[
        float | None, within("[0, 1e6)", "alpha_visible >= 0 (gamma_i = -alpha_visible / t_i), e.g. 0.5")
    ] = None
    length: Annotated[int | None, at_least(1, "as the model is trained at")] = None  # type: ignore[misc]

    def __post_init__(self):
        super().__post_init__()
        given = [name for name in WAYS if getattr(self, name) is not None]
        if len(given) != 1:
            raise QtxError(
                f"clipped_softmax takes one of {', '.join(WAYS)}, got {' and '.join(given) or 'none'}: set e.g. "
                "alpha=4, or gamma=-0.03"
            )
        if self.length is not None and self.alpha is None:
            raise QtxError(f"length is {self.length}, which only alpha is relative to: set alpha, or leave length out")

    def trained_at(self, length):
        is_open = self.alpha is not None and self.length is None
        return dataclasses.replace(self, length=length) if is_open else self

    def grown_to(self, share):
        ways = {name: value * share for name in WAYS if (value := getattr(self, name)) is not None}
        return dataclasses.replace(self, **ways)

    def finish(self, parameters, probs, rows):
        gamma: Any = self.gamma
        if self.alpha is not None:
            gamma = self._gamma_by_length()
        elif self.alpha_visible is not None:
            gamma = -self.alpha_visible / jnp.maximum(rows.visible(), 1)
        gamma = gamma * self.grown(rows)
        return clipped((self.zeta - gamma) * probs + gamma)

    def _gamma_by_length(self) -> float:
        if self.alpha is None or self.length is None:
            raise QtxError(
                "clipped_softmax by alpha has gamma = -alpha / length, and nothing tells the length that the model is "
                f"trained at: name it, e.g. clipped_softmax,alpha={self.alpha:g},length=128"
            )
        return -self.alpha / self.length

    def pytorch(self, own):
        gamma = str(self.gamma)
        if self.alpha is not None:
            gamma = str(self._gamma_by_length())
        elif self.alpha_visible is not None:
            gamma = f"-{self.alpha_visible} / visible.sum(-1, keepdim=True).clamp(min=1)"
        return f"""
gamma = {gamma}
return (({self.zeta} - gamma) * softmax(scores, visible) + gamma).clamp(0, 1)
"""
