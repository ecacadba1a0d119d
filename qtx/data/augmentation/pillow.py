"""uint8 arrays to Pillow images and back."""

from __future__ import annotations

import numpy as np
from PIL import Image

RESAMPLINGS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


def to_pillow(image: np.ndarray) -> Image.Image:
    """uint8 `[H, W, 1]` as a grey, `[H, W, 3]` as an RGB image."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def from_pillow(image: Image.Image) -> np.ndarray:
    """uint8 `[H, W, C]`, C 1 or 3; read-only."""
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def random_resampling(rng: np.random.Generator) -> Image.Resampling:
    """Bilinear or bicubic."""
    return RESAMPLINGS[rng.integers(len(RESAMPLINGS))]
