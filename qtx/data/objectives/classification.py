"""Classification of images."""

from __future__ import annotations

from types import MappingProxyType

from qtx.data.objectives.base import Objective
from qtx.losses import CrossEntropy


class Classification(Objective):
    """Prediction of an image's class; image sources make the examples: images `[H, W, C]`, labels and weights `[]`."""

    loss = CrossEntropy()
    metric = "accuracy"
    also_measured = ("perplexity",)
    lower_is_better = False
    built_in_sources = MappingProxyType({"images": "digits"})
