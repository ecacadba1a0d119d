"""Random crops and mirroring of uint8 images `[H, W, C]`."""

from __future__ import annotations

import math

import numpy as np

from qtx.data.augmentation.pillow import from_pillow, random_resampling, to_pillow

SMALLEST_AREA = 0.08
WIDEST = 4 / 3  # largest ratio of width to height; the smallest is its inverse
ATTEMPTS = 10


def random_crop(image: np.ndarray, rng: np.random.Generator, pad: int) -> np.ndarray:
    """Pads an image by `pad` zeros on every side, then crops `[H, W, C]` at random (He et al. 2016, for CIFAR)."""
    height, width, _ = image.shape
    top, left = rng.integers(0, 2 * pad + 1, size=2)
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    return padded[top : top + height, left : left + width]


def random_flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors an image, left to right, with probability 0.5."""
    return image[:, ::-1] if rng.random() < 0.5 else image


def random_resized_crop(image: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """Crops 8 to 100 % of the image's area at random, with a ratio of 3:4 to 4:3, and resizes it to `[size, size, C]`,
    bilinear or bicubic at random (Szegedy et al. 2015; timm's `RandomResizedCropAndInterpolation`, "random")."""
    top, left, height, width = _rectangle(image.shape[0], image.shape[1], rng)
    crop = to_pillow(image[top : top + height, left : left + width])
    return from_pillow(crop.resize((size, size), random_resampling(rng)))


def _rectangle(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draws (top, left, height, width); takes the largest centred rectangle if no draw fits into a narrow image."""
    for _ in range(ATTEMPTS):
        area = height * width * rng.uniform(SMALLEST_AREA, 1.0)
        ratio = math.exp(rng.uniform(-math.log(WIDEST), math.log(WIDEST)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w = min(width, round(height * WIDEST))
    h = min(height, round(width * WIDEST))
    return (height - h) // 2, (width - w) // 2, h, w
