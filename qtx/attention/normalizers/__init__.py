"""Normalizers turn attention scores into probabilities. A new one is a file here and a line in `NORMALIZERS`."""

from qtx.attention.normalizers.base import Normalizer, Rows, Softmax, SoftmaxLike, softmax
from qtx.attention.normalizers.clipped_softmax import ClippedSoftmax
from qtx.attention.normalizers.none import NoAttention
from qtx.attention.normalizers.normalized_clipped_softmax import NormalizedClippedSoftmax
from qtx.attention.normalizers.sink import Sink
from qtx.attention.normalizers.softmax1 import Softmax1

NORMALIZERS: dict[str, type[Normalizer]] = {
    "softmax": Softmax,
    "clipped_softmax": ClippedSoftmax,
    "normalized_clipped_softmax": NormalizedClippedSoftmax,
    "softmax1": Softmax1,
    "sink": Sink,
    "none": NoAttention,
}

__all__ = [
    "NORMALIZERS",
    "ClippedSoftmax",
    "NoAttention",
    "Normalizer",
    "NormalizedClippedSoftmax",
    "Rows",
    "Sink",
    "Softmax",
    "Softmax1",
    "SoftmaxLike",
    "softmax",
]
