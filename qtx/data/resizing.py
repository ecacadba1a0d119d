"""How an image of any size becomes one of a model's size; the one way to do it, of every image source."""

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
"""How an image is resized to `size / crop_ratio` pixels, and the middle cut out. `center`: its shorter side, as
torchvision and timm do; `floor`: the same, and of an odd number of pixels beside the middle fewer are on the left and
on top, as transformers has it; `squash`: both sides, whatever their ratio."""


def resized_to(width: int, height: int, size: int, crop_ratio: float, squash: bool = False) -> tuple[int, int]:
    """Width and height before the middle is cut out: the shorter side is `size / crop_ratio`, both rounded down, as
    timm (`transforms_imagenet_eval`), torchvision (`Resize`) and transformers do; with `squash` so are both sides."""
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
    """The middle of an image: uint8 `[H, W, C]` to `[size, size, C]`.

    Args:
      image: it.
      size: S.
      crop_ratio: S by the side that the image is resized to.
      crop_mode: of `CROP_MODES`; None: as `center`, but an image of S x S stays as it is.
      interpolation: of `INTERPOLATIONS`.

    Raises:
      QtxError: for one so long and narrow that it would have more than `MOST_PIXELS` when it is resized.
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
