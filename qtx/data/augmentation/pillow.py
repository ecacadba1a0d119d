"""Conversion between uint8 arrays and Pillow images."""

from __future__ import annotations

import numpy as np
from PIL import Image

RESAMPLINGS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


def to_pillow(image: np.ndarray) -> Image.Image:
    """Converts uint8 `[H, W, 1]` to a grey image, and `[H, W, 3]` to an RGB image."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def from_pillow(image: Image.Image) -> np.ndarray:
    """Returns an image's pixels, uint8 `[H, W, C]` with C 1 or 3, read-only."""
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def random_resampling(rng: np.random.Generator) -> Image.Resampling:
    """Chooses bilinear or bicubic resampling at random."""
    return RESAMPLINGS[rng.integers(len(RESAMPLINGS))]
