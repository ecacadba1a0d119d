"""Classification of images."""

from __future__ import annotations

from types import MappingProxyType

from qtx.data.objectives.base import Objective


class Classification(Objective):
    """Prediction of an image's class; image sources make the examples: images `[H, W, C]`, labels and weights `[]`."""

    metric = "accuracy"
    also_measured = ("perplexity",)
    lower_is_better = False
    built_in_sources = MappingProxyType({"images": "digits"})
