"""Where the pixels come from: random crops and mirroring of uint8 images `[H, W, C]`."""

from __future__ import annotations

import math

import numpy as np

from qtx.data.augmentation.pillow import from_pillow, random_resampling, to_pillow

SMALLEST_AREA = 0.08
WIDEST = 4 / 3  # width to height; the narrowest is its inverse
ATTEMPTS = 10


def random_crop(image: np.ndarray, rng: np.random.Generator, pad: int) -> np.ndarray:
    """A crop `[H, W, C]` of the image with `pad` pixels of zeros on every side (He et al. 2016, for CIFAR)."""
    height, width, _ = image.shape
    top, left = rng.integers(0, 2 * pad + 1, size=2)
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    return padded[top : top + height, left : left + width]


def random_flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every other image mirrored, left to right."""
    return image[:, ::-1] if rng.random() < 0.5 else image


def random_resized_crop(image: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """A rectangle of 8 to 100 % of the image's area and a ratio of 3:4 to 4:3, resized to `[size, size, C]`, bilinear
    or bicubic by lot (Szegedy et al. 2015; timm's `RandomResizedCropAndInterpolation` with "random")."""
    top, left, height, width = _rectangle(image.shape[0], image.shape[1], rng)
    crop = to_pillow(image[top : top + height, left : left + width])
    return from_pillow(crop.resize((size, size), random_resampling(rng)))


def _rectangle(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width); the largest one in the middle when no draw fits into a narrow image."""
    for _ in range(ATTEMPTS):
        area = height * width * rng.uniform(SMALLEST_AREA, 1.0)
        ratio = math.exp(rng.uniform(-math.log(WIDEST), math.log(WIDEST)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w = min(width, round(height * WIDEST))
    h = min(height, round(width * WIDEST))
    return (height - h) // 2, (width - w) // 2, h, w
