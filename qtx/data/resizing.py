"""The one way in which every image source brings an image of any size to a model's size."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from qtx.data.augmentation.pillow import from_pillow, to_pillow
from qtx.data.image_files import MOST_PIXELS
from qtx.foundation.errors import QtxError

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
SQUASH = "squash"
CROP_MODES = dict.fromkeys(("center", "floor", SQUASH))
"""Ways to resize an image to `size / crop_ratio` pixels before the middle is cut out. `center` resizes the shorter
side, as torchvision and timm do; `floor` too, but rounds the left and upper margins down, as transformers does;
`squash` resizes both sides, whatever their ratio."""


def resized_to(width: int, height: int, size: int, crop_ratio: float, squash: bool = False) -> tuple[int, int]:
    """Returns width and height before the middle is cut out: the shorter side is `size / crop_ratio`, with `squash`
    both are, all rounded down as in timm (`transforms_imagenet_eval`), torchvision (`Resize`) and transformers."""
    shorter = math.floor(size / crop_ratio)
    longer = shorter if squash else int(shorter * max(width, height) / min(width, height))
    return (shorter, longer) if width <= height else (longer, shorter)


def cut_to_size(
    image: np.ndarray,
    size: int,
    crop_ratio: float,
    crop_mode: str | None = None,
    interpolation: str = "bicubic",
) -> np.ndarray:
    """Resizes an image and cuts out its middle: uint8 `[H, W, C]` to `[size, size, C]`.

    Args:
      image: the image.
      size: S, height and width of the result.
      crop_ratio: S divided by the side that the image is resized to.
      crop_mode: a name in `CROP_MODES`; None: `center`, but an image of S x S stays as it is.
      interpolation: a name in `INTERPOLATIONS`.

    Raises:
      QtxError: for an image so long and narrow that it would have more than `MOST_PIXELS` when resized.
    """
    height, width, _ = image.shape
    if crop_mode is None and (height, width) == (size, size):
        return image
    sides = resized_to(width, height, size, crop_ratio, crop_mode == SQUASH)
    if sides[0] * sides[1] > MOST_PIXELS:
        raise QtxError(
            f"an image of {width} x {height} pixels would be one of {sides[0]} x {sides[1]} when its shorter side is "
            "resized: leave it out, or set data.crop_mode to 'squash'"
        )
    resized = to_pillow(image).resize(sides, INTERPOLATIONS[interpolation])
    left, top = ((side - size) // 2 if crop_mode == "floor" else round((side - size) / 2) for side in sides)
    return from_pillow(resized.crop((left, top, left + size, top + size)))
