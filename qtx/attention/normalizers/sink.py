"""Softmax with an empty key whose score is learned."""

from __future__ import annotations

import dataclasses

from qtx.attention.normalizers.empty_key import WithEmptyKey
from qtx.attention.parameters import Parameter


@dataclasses.dataclass(frozen=True)
class Sink(WithEmptyKey):
    """Softmax with a learned empty key, exp(x_i) / (w exp(s_h) + sum_j exp(x_j)), s_h learned per head, w = 1 (gpt-oss,
    OpenAI 2025): each head has a place of its own to park attention on, and need not make a token such a place. With
    s_h at 0, where training starts, it is `Softmax1`.

    Parameters: `sinks` `[H]`.

    Attributes:
      empty_warmup_steps: w grows linearly from 0 over this many training steps. (At w = 0 s_h gets no gradient yet.
        With s_h = -inf in place of w = 0, s_h would never get one.)
      empty_weight: w.
    """

    def parameters(self, num_heads):
        return {"sinks": Parameter((num_heads,), start=0.0, axes=("heads",))}

    def empty(self, parameters, rows):
        return parameters["sinks"][:, None, None] + self.log_weight(rows)

    def pytorch(self, own):
        return self.with_empty_key(f"{own}.sinks.float()[:, None, None].expand_as(scores[..., :1])")
