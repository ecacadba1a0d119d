"""What a vision checkpoint says of its pixels, as options of an image source; and pixels as transformers makes them."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from qtx.data import OBJECTIVES
from qtx.data.images import IMAGENET, ImageOptions
from qtx.data.resizing import cut_to_size
from qtx.data.sources.photographs import Photographs
from qtx.foundation.errors import QtxError
from qtx.interop.pixels import pixel_options, processor_of
from qtx.interop.stored import open_folder
from tests.interop.kinds import KINDS, TIMM

HALF = (0.5, 0.5, 0.5)
SAVED = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
    "crop_size": None,
    "do_center_crop": None,
}
DEFAULTS = {"crop_ratio": 1.0, "crop_mode": "squash", "interpolation": "bilinear", "mean": HALF, "std": HALF}
OF_SAVED = {**DEFAULTS, "interpolation": "bicubic", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
CROPPED = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
# preprocessor_config.json, None for no file, and what it means.
PROCESSORS = {
    "no file": (None, DEFAULTS),
    "as saved": (SAVED, OF_SAVED),
    "of an extractor": ({"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2}, DEFAULTS),
    "nothing normalized": (SAVED | {"do_normalize": False}, OF_SAVED | {"mean": (0,) * 3, "std": (1,) * 3}),
    "to minus one": (
        SAVED | {"do_normalize": False, "rescale_factor": 1 / 127.5, "rescale_offset": True},
        OF_SAVED | {"mean": HALF, "std": HALF},
    ),
    "not rescaled": (
        SAVED | {"do_rescale": False, "image_mean": 127.5, "image_std": 51.0},
        OF_SAVED | {"mean": HALF, "std": (0.2,) * 3},
    ),
    "the middle of the shorter side": (
        SAVED | CROPPED | {"size": {"shortest_edge": 248}},
        OF_SAVED | {"crop_ratio": 224 / 248, "crop_mode": "floor"},
    ),
    "of DeiT": (SAVED | CROPPED | {"size": 256}, OF_SAVED | {"crop_ratio": 0.875}),
    "of BiT": (
        SAVED | CROPPED | {"size": 256, "image_processor_type": "BitImageProcessor"},
        OF_SAVED | {"crop_ratio": 0.875, "crop_mode": "floor"},
    ),
    "of ConvNext": (
        SAVED | {"size": {"shortest_edge": 224}, "crop_pct": 0.875},
        OF_SAVED | {"crop_ratio": 0.875, "crop_mode": "floor"},
    ),
    "of ConvNext, large": (SAVED | {"size": {"shortest_edge": 384}, "crop_pct": 0.875}, OF_SAVED),
}
REFUSED = {
    "another filter": ({"resample": 7}, "resample is '7'; qtx supports 0, 1, 2, 3, 4, 5"),
    "no square": ({"size": {"height": 224, "width": 192}}, "size is .*qtx supports a square, or shortest_edge"),
    "padding": (CROPPED | {"size": {"shortest_edge": 200}}, "crop_size 224 is more than size 200"),
    "words": ({"image_std": ["a"]}, "image_std is .*expected a number per channel"),
    "no factor": ({"rescale_factor": 0}, "rescale_factor is 0"),
    "no resizing": (CROPPED | {"do_resize": False}, "do_center_crop without do_resize"),
}


def vit(folder, processor):
    KINDS["ViTForImageClassification"].write(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return open_folder(folder)


def approximately(options):
    return {name: pytest.approx(x) if isinstance(x, tuple | float) else x for name, x in options.items()}


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processors_options_are_those_of_a_source(tmp_path, name):
    processor, expected = PROCESSORS[name]
    found = pixel_options(vit(tmp_path, processor), 224, 3)
    assert found == approximately({"image_size": 224, "channels": 3, **expected})
    ImageOptions(**found)


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_that_is_written_says_the_same(tmp_path, name):
    options = pixel_options(vit(tmp_path / "theirs", PROCESSORS[name][0]), 224, 3)
    data = Photographs(**options).load(OBJECTIVES["distill"])
    assert data.pixels == options
    assert pixel_options(vit(tmp_path / "ours", processor_of(data.pixels)), 224, 3) == approximately(options)


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_option_means_is_told(tmp_path, name):
    change, message = REFUSED[name]
    with pytest.raises(QtxError, match=message):
        pixel_options(vit(tmp_path, SAVED | change), 224, 3)


def test_grey_models_take_one_number(tmp_path):
    found = pixel_options(vit(tmp_path, SAVED | {"image_mean": list(HALF), "image_std": 0.25}), 28, 1)
    assert (found["channels"], found["mean"], found["std"]) == (1, (0.5,), (0.25,))
    with pytest.raises(QtxError, match="mean has 3 numbers for images of 1 channel.*set data.mean"):
        options = pixel_options(open_folder(tmp_path), 28, 1) | {"mean": (0.1, 0.2, 0.3)}
        Photographs(**options).load(OBJECTIVES["distill"])


@pytest.mark.parametrize("resized", range(225, 300, 7))
def test_every_size_is_that_which_is_named(tmp_path, resized):
    options = SAVED | CROPPED | {"size": {"shortest_edge": resized}}
    ratio = pixel_options(vit(tmp_path, options), 224, 3)["crop_ratio"]
    assert int(224 / ratio) == resized


def test_timms_options(tmp_path):
    """Those of `pretrained_cfg`, in its place or, in files of earlier versions, beside the architecture."""
    given = {"mean": [0.1, 0.2, 0.3], "std": list(HALF), "crop_pct": 0.9, "interpolation": "bilinear"}
    given |= {"crop_mode": "squash", "input_size": [3, 224, 224]}
    expected = {"crop_ratio": 0.9, "crop_mode": "squash", "interpolation": "bilinear", "mean": (0.1, 0.2, 0.3)}
    usual = {"crop_ratio": 0.875, "crop_mode": "center", "interpolation": "bicubic", **IMAGENET}
    flat = {key: value for key, value in TIMM.items() if key != "pretrained_cfg"} | given
    for number, (config, wanted) in enumerate(
        [
            (TIMM | {"pretrained_cfg": given}, {**expected, "std": HALF}),
            (flat, {**expected, "std": HALF}),
            (TIMM, usual),
        ]
    ):
        KINDS["timm's ViT"].write(tmp_path / str(number))
        (tmp_path / str(number) / "config.json").write_text(json.dumps(config))
        found = pixel_options(open_folder(tmp_path / str(number)), 6, 3)
        assert found == approximately({"image_size": 6, "channels": 3, **wanted})
    (tmp_path / "0" / "config.json").write_text(json.dumps(TIMM | {"pretrained_cfg": {"crop_mode": "border"}}))
    with pytest.raises(QtxError, match="crop_mode is 'border'; qtx supports center, squash"):
        pixel_options(open_folder(tmp_path / "0"), 6, 3)


MADE = {
    "squashed": {"size": {"height": 224, "width": 224}, "resample": 2},
    "squashed and cropped": {**CROPPED, "size": {"height": 256, "width": 256}, "resample": 3},
    "shorter side": {**CROPPED, "size": {"shortest_edge": 256}, "resample": 3},
    "shorter side, odd": {**CROPPED, "size": {"shortest_edge": 241}, "resample": 1},
    "as it is, lanczos, other numbers": {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
}


@pytest.mark.parametrize("photograph", ["china.jpg", "flower.jpg"])
@pytest.mark.parametrize("name", MADE)
def test_pixels_are_those_of_transformers(tmp_path, name, photograph):
    processors = pytest.importorskip("transformers.models.vit.image_processing_pil_vit")
    processor = processors.ViTImageProcessorPil(**MADE[name])
    processor.save_pretrained(tmp_path)
    stored = vit(tmp_path, json.loads((tmp_path / "preprocessor_config.json").read_text()))
    options = pixel_options(stored, 224, 3)
    with Image.open(files("sklearn.datasets.images").joinpath(photograph)) as image:
        expected = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        pixels = np.asarray(image)
    cut = cut_to_size(pixels, 224, options["crop_ratio"], options["crop_mode"], options["interpolation"])
    found = (cut.astype(np.float32) / 255 - np.float32(options["mean"])) / np.float32(options["std"])
    # One of 256 values is at least .015 away.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
