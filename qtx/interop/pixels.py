"""This module reads how a vision checkpoint wants its images brought to the model's size, and normalized."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qtx.data.resizing import INTERPOLATIONS, SQUASH
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected, read_json
from qtx.foundation.storage.json_values import LARGEST, number, numbers, one_of
from qtx.interop.stored import CONFIG, Stored

PREPROCESSOR = "preprocessor_config.json"
EXPECTED = Expected("the options of an image processor", f"mend {PREPROCESSOR}, or take it away")
# The options of a ViTImageProcessor whose file leaves them out, or is not there.
VIT = {
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "rescale_offset": False,
    "do_normalize": True,
    "image_mean": 0.5,
    "image_std": 0.5,
}
# Image processors that take a size of one number as that of the shorter side.
OF_SHORTER_SIDE = ("Bit", "CLIP")
CONVNEXT_WHOLE = 384
"""Pixels from which on a ConvNextImageProcessor cuts nothing off: below, it resizes to more and cuts."""
PILLOW: dict[Any, str] = {int(code): name for name, code in INTERPOLATIONS.items()}


def pixel_options(stored: Stored, image_size: int, channels: int) -> dict[str, Any]:
    """Returns the options of an image source that give a checkpoint's model the pixels that it was made for.

    Args:
      stored: the checkpoint's folder.
      image_size: the model's image size; a processor's own size tells only how much of an image is cut off.
      channels: the model's channels.

    Raises:
      QtxError: naming what the checkpoint asks for and no option of an image source can express.
    """
    told = stored.checkpoint.library.pixels
    if told is None:
        options = _of_processor(stored.folder / PREPROCESSOR, image_size)
    else:
        options = told(stored.values, str(stored.folder / CONFIG))
    for name in ("mean", "std"):
        given = options[name]  # one number, or the same for all, is that of any number of channels
        options[name] = tuple(given[:1] * channels if len(set(given)) == 1 else given)
    return {"image_size": image_size, "channels": channels, **options}


def processor_of(pixels: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the file of a ViTImageProcessor that makes the pixels of `Data.pixels`: what `pixel_options` reads, but
    for a crop_mode of `center`, whose odd pixel lies on the other side in transformers."""
    size = pixels["image_size"]
    resized, squash = math.floor(size / pixels["crop_ratio"]), pixels["crop_mode"] == SQUASH
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": resized, "width": resized} if squash else {"shortest_edge": resized},
        "resample": int(INTERPOLATIONS[pixels["interpolation"]]),
        "do_center_crop": not squash or resized != size,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pixels["mean"]),
        "image_std": list(pixels["std"]),
    }


def _of_processor(file: Path, image_size: int) -> dict[str, Any]:
    """Returns the options of transformers' image processor file; without a file, a ViTImageProcessor's."""
    given, source = read_json(file, EXPECTED) if file.is_file() else {}, str(file)
    values: dict[str, Any] = VIT | {key: value for key, value in given.items() if value is not None}
    if values["do_center_crop"] and not values["do_resize"]:
        raise QtxError(f"{source}: do_center_crop without do_resize, which qtx does not support: resize the images")
    squash, resized = _resized(values, source)
    cut = _side(source, "crop_size", values.get("crop_size", image_size)) if values["do_center_crop"] else resized
    if given.get("crop_pct") is not None:
        squash = cut >= CONVNEXT_WHOLE
        resized = cut if squash else int(cut / number(source, "crop_pct", given["crop_pct"], most=1.0))
    if cut > resized:
        raise QtxError(f"{source}: crop_size {cut} is more than size {resized}; qtx supports no padding")
    return {
        "crop_ratio": _ratio(cut, resized, image_size),
        "crop_mode": "squash" if squash else "floor",
        "interpolation": PILLOW[one_of(source, "resample", values["resample"], PILLOW)],
        **_normalization(values, source),
    }


def _normalization(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns `mean` and `std`: (x - mean) / std = (255 x * factor - offset - image_mean) / image_std, 0 <= x <= 1."""
    one, offset = 255.0, 0.0
    if values["do_rescale"]:
        one *= number(source, "rescale_factor", values["rescale_factor"])
        offset = 1.0 if values["rescale_offset"] else 0.0
    mean, std = [0.0], [1.0]
    if values["do_normalize"]:
        mean, std = (numbers(source, name, values[name]) for name in ("image_mean", "image_std"))
    return {"mean": [(x + offset) / one for x in mean], "std": [x / one for x in std]}


def _resized(values: Mapping[str, Any], source: str) -> tuple[bool, int]:
    """Says whether both sides are resized, whatever their ratio, or the shorter one; and to how many pixels."""
    size, kind = values["size"], str(values.get("image_processor_type", values.get("feature_extractor_type", "")))
    if isinstance(size, dict) and "shortest_edge" in size and size.get("longest_edge") is None:
        return False, _side(source, "size", size["shortest_edge"])
    return not (isinstance(size, int) and kind.startswith(OF_SHORTER_SIDE)), _side(source, "size", size)


def _side(source: str, name: str, size: Any) -> int:
    """Returns the side of a square, which is given as one number, or as the same number twice."""
    if isinstance(size, dict):
        sides = [size.get("height"), size.get("width")]
    else:
        sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or sides[0] != sides[1] or not isinstance(sides[0], int) or not 1 <= sides[0] <= LARGEST:
        raise QtxError(f"{source}: {name} is {str(size)[:100]}; qtx supports a square, or shortest_edge")
    return sides[0]


def _ratio(cut: int, resized: int, size: int) -> float:
    """Returns `cut / resized`, so that `size` pixels divided by it and rounded down are those of exact arithmetic."""
    ratio = cut / resized
    return ratio if math.floor(size / ratio) == size * resized // cut else math.nextafter(ratio, 0.0)
