"""Normalizers: attention scores to probabilities. A new one is a file here and a line in `NORMALIZERS`.

A normalizer is a frozen dataclass of its options with

    __call__(scores [B, H, T, S] float32, mask (broadcasts to scores, True = visible), step=None) -> probs [B, H, T, S]

A masked key's probability is exactly 0, and a row without a visible key is all 0. `step` is the training step (a traced
scalar) for normalizers that anneal; None means fully trained.
"""

from qtx.attention.normalizers.clipped_softmax import ClippedSoftmax
from qtx.attention.normalizers.none import NoAttention
from qtx.attention.normalizers.softmax import Softmax, softmax

NORMALIZERS = {
    "softmax": Softmax,
    "clipped_softmax": ClippedSoftmax,
    "none": NoAttention,
}

__all__ = ["NORMALIZERS", "ClippedSoftmax", "NoAttention", "Softmax", "softmax"]
