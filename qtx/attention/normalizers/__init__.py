"""Normalizers turn attention scores into probabilities. A new one is a file here and a line in `NORMALIZERS`."""

from qtx.attention.normalizers.base import Normalizer, Rows, Softmax, SoftmaxLike, softmax
from qtx.attention.normalizers.clipped_softmax import ClippedSoftmax
from qtx.attention.normalizers.elastic import Elastic
from qtx.attention.normalizers.entmax15 import Entmax15
from qtx.attention.normalizers.none import NoAttention
from qtx.attention.normalizers.normalized_clipped_softmax import NormalizedClippedSoftmax
from qtx.attention.normalizers.relu import Relu
from qtx.attention.normalizers.scalable_softmax import ScalableSoftmax
from qtx.attention.normalizers.sigmoid import Sigmoid
from qtx.attention.normalizers.sink import Sink
from qtx.attention.normalizers.softmax1 import Softmax1
from qtx.attention.normalizers.softpick import Softpick
from qtx.attention.normalizers.sparsemax import Sparsemax

NORMALIZERS: dict[str, type[Normalizer]] = {
    "softmax": Softmax,
    "clipped_softmax": ClippedSoftmax,
    "normalized_clipped_softmax": NormalizedClippedSoftmax,
    "softmax1": Softmax1,
    "sink": Sink,
    "elastic": Elastic,
    "softpick": Softpick,
    "sigmoid": Sigmoid,
    "relu": Relu,
    "scalable_softmax": ScalableSoftmax,
    "sparsemax": Sparsemax,
    "entmax15": Entmax15,
    "none": NoAttention,
}

__all__ = [
    "NORMALIZERS",
    "ClippedSoftmax",
    "Elastic",
    "Entmax15",
    "NoAttention",
    "Normalizer",
    "NormalizedClippedSoftmax",
    "Relu",
    "Rows",
    "ScalableSoftmax",
    "Sigmoid",
    "Sink",
    "Softmax",
    "Softmax1",
    "SoftmaxLike",
    "Softpick",
    "Sparsemax",
    "softmax",
]
