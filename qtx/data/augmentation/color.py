"""Colour jitter."""

from __future__ import annotations

import numpy as np
from PIL import ImageEnhance

from qtx.data.augmentation.pillow import from_pillow, to_pillow

# torchvision's ColorJitter calls these brightness, contrast and saturation.
ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def color_jitter(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Changes brightness, contrast and saturation of a uint8 image `[H, W, C]` in random order, each by a factor that
    is uniform in 1 +- `strength` (not below 0), as torchvision does."""
    result = to_pillow(image)
    for index in rng.permutation(len(ENHANCERS)):
        factor = rng.uniform(max(0.0, 1 - strength), 1 + strength)
        result = ENHANCERS[index](result).enhance(factor)
    return from_pillow(result)
