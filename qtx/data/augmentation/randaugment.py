"""RandAugment (Cubuk et al. 2020) as timm has it: `rand-m9-mstd0.5` is `RandAugment(2, 9.0, 0.5)`.

A magnitude is 0 to 10. As in timm's set without `inc1`, it is not a strength for every operation: posterize and
solarize grow weaker with it, and the enhancers (color, contrast, brightness, sharpness) do nothing at 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from qtx.data.augmentation.pillow import from_pillow, random_resampling, to_pillow

HIGHEST_MAGNITUDE = 10.0
PROBABILITY = 0.5
SOLARIZE_ADD_BELOW = 128


def _enhance(enhancer: Any) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, m: enhancer(image).enhance(0.1 + 1.8 * m)


def _solarize_add(image: Image.Image, m: float) -> Image.Image:
    added = min(128, int(110 * m))
    table = [min(255, value + added) if value < SOLARIZE_ADD_BELOW else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def _affine(matrix: Callable[[Image.Image, float], tuple[float, ...]]) -> Callable[..., Image.Image]:
    """Makes a warp: output pixel (x, y) is input pixel (a x + b y + c, d x + e y + f), matrix (a, b, c, d, e, f)."""
    return lambda image, m, **fill: image.transform(image.size, Image.Transform.AFFINE, matrix(image, m), **fill)


# Operations by name: (image, m) -> image, where m in [0, 1] is the magnitude divided by 10.
PIXEL_OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "auto_contrast": lambda image, m: ImageOps.autocontrast(image),
    "equalize": lambda image, m: ImageOps.equalize(image),
    "invert": lambda image, m: ImageOps.invert(image),
    # Pillow keeps at least one bit; timm asks for none below a magnitude of 2.5, which is an error.
    "posterize": lambda image, m: ImageOps.posterize(image, max(1, int(4 * m))),
    "solarize": lambda image, m: ImageOps.solarize(image, min(256, int(256 * m))),
    "solarize_add": _solarize_add,
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
}
# Warps by name: (image, m, resample=, fillcolor=) -> image, where m has a random sign and is in [-1, 1].
WARPS: dict[str, Callable[..., Image.Image]] = {
    "rotate": lambda image, m, **fill: image.rotate(30 * m, **fill),
    "shear_x": _affine(lambda image, m: (1, 0.3 * m, 0, 0, 1, 0)),
    "shear_y": _affine(lambda image, m: (1, 0, 0, 0.3 * m, 1, 0)),
    "translate_x": _affine(lambda image, m: (1, 0, 0.45 * m * image.width, 0, 1, 0)),
    "translate_y": _affine(lambda image, m: (1, 0, 0, 0, 1, 0.45 * m * image.height)),
}
OPERATIONS = (*PIXEL_OPERATIONS, *WARPS)


@dataclass(frozen=True)
class RandAugment:
    """`RandAugment` draws operations for each image, with replacement, and applies each with probability 0.5.

    Attributes:
      layers: operations drawn per image.
      magnitude: mean of the magnitudes, 0 to 10.
      std: standard deviation of the magnitudes; a draw outside of 0 to 10 is clipped.
    """

    layers: int = 2
    magnitude: float = 9.0
    std: float = 0.5

    def __call__(self, image: np.ndarray, rng: np.random.Generator, fill: tuple[int, ...]) -> np.ndarray:
        """Augments a uint8 image `[H, W, C]`; `fill` (one value per channel) colours what a warp leaves empty."""
        result = to_pillow(image)
        for name in rng.choice(OPERATIONS, self.layers):
            if rng.random() < PROBABILITY:
                m = np.clip(rng.normal(self.magnitude, self.std), 0, HIGHEST_MAGNITUDE) / HIGHEST_MAGNITUDE
                result = _apply(name, result, float(m), rng, fill)
        return from_pillow(result)


def _apply(name: str, image: Image.Image, m: float, rng: np.random.Generator, fill: tuple[int, ...]) -> Image.Image:
    if name in PIXEL_OPERATIONS:
        return PIXEL_OPERATIONS[name](image, m)
    sign = -1 if rng.random() < 0.5 else 1
    color = fill if len(fill) > 1 else fill[0]
    return WARPS[name](image, sign * m, resample=random_resampling(rng), fillcolor=color)
