"""What normalizers compute, in PyTorch: for each the lines of a method `normalize(self, scores, visible)`.

`scores` are `[B, HEADS, T, S]`, scaled, float32, and anything where a query does not see a key; `visible` is True where
it does, and broadcasts to them. As in qtx, what is returned is 0 where a key is not seen. The lines may call
`softmax(scores, visible)`, which is, and find a parameter by its name after `own`: `f"{own}.sinks"`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from qtx.attention.normalizers import (
    ClippedSoftmax,
    NoAttention,
    NormalizedClippedSoftmax,
    Normalizer,
    Sink,
    Softmax,
    Softmax1,
)


def clipped_softmax(n: ClippedSoftmax, own: str) -> str:
    """The stretch that a fully trained model has, whatever it grew from."""
    if n.alpha is not None:
        gamma = f"-{n.alpha} / scores.shape[-1]"
    elif n.alpha_visible is not None:
        gamma = f"-{n.alpha_visible} / visible.sum(-1, keepdim=True).clamp(min=1)"
    else:
        gamma = str(n.gamma)
    return f"""
gamma = {gamma}
return (({n.zeta} - gamma) * softmax(scores, visible) + gamma).clamp(0, 1)
"""


def normalized_clipped_softmax(n: NormalizedClippedSoftmax, own: str) -> str:
    """Of t visible keys, ((t eta - beta) p + beta - eta) / (t - 1), clipped; of one key beta p."""
    return f"""
beta, eta, probs = {n.beta}, {n.eta}, softmax(scores, visible)
keys = visible.sum(-1, keepdim=True)
others = (keys - 1).clamp(min=1)
clipped = ((keys * eta - beta) / others * probs + (beta - eta) / others).clamp(0, 1)
return torch.where(keys > 1, clipped, beta * probs)
"""


def softmax1(n: Softmax1, own: str) -> str:
    """A softmax with an empty key of logit 0."""
    return with_empty_key("torch.zeros_like(scores[..., :1])", n.empty_weight)


def sink(n: Sink, own: str) -> str:
    """A softmax with an empty key whose logit each head has learned, `sinks` `[H]`."""
    return with_empty_key(f"{own}.sinks.float()[:, None, None].expand_as(scores[..., :1])", n.empty_weight)


def with_empty_key(score: str, weight: float) -> str:
    """A softmax with an empty key of a score `[B, H, T, 1]` and a weight, whose probability is left out."""
    if weight != 1:
        score += f" + {math.log(weight)}" if weight else " - torch.inf"
    return f"""
scores = torch.cat([scores, {score}], -1)
return softmax(scores, nn.functional.pad(visible, (0, 1), value=True))[..., :-1]
"""


NORMALIZERS: dict[type[Normalizer], Callable[[Any, str], str]] = {
    Softmax: lambda n, own: "return softmax(scores, visible)",
    ClippedSoftmax: clipped_softmax,
    NormalizedClippedSoftmax: normalized_clipped_softmax,
    Softmax1: softmax1,
    Sink: sink,
    NoAttention: lambda n, own: "return torch.zeros_like(scores)",
}
"""By class. A new normalizer is a line here too."""
