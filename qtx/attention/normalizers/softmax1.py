"""Softmax with an empty key of score 0."""

from __future__ import annotations

import dataclasses

from qtx.attention.normalizers.empty_key import WithEmptyKey


@dataclasses.dataclass(frozen=True)
class Softmax1(WithEmptyKey):
    """Softmax with w empty keys of score 0, exp(x_i) / (w + sum_j exp(x_j)), w = 1 (Miller 2023, "Attention is off by
    one"): a head whose scores are all far below 0 attends to nothing.

    Attributes:
      empty_warmup_steps: w grows linearly from 0 over this many training steps.
      empty_weight: w.
    """

    def empty(self, parameters, rows):
        return self.log_weight(rows)

    def pytorch(self, own):
        return self.with_empty_key("torch.zeros_like(scores[..., :1])")
