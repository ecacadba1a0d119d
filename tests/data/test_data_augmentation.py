"""The augmentation of ViT's recipe: what every transform keeps, what each one does, and mixed labels.

The RandAugment operations were compared with those of timm 1.0.31 on Pillow 13.0, both of timm's resamplings, both
signs, magnitudes 0 to 10 (posterize from 2.5): all 356 images are equal in every pixel.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qtx.data import DataConfig, load
from qtx.data.augmentation import OPERATIONS, Mixing, RandAugment, color_jitter, random_flip, random_resized_crop
from qtx.data.augmentation.randaugment import PIXEL_OPERATIONS, WARPS
from qtx.data.images import ImageOptions
from qtx.data.sources import Digits
from qtx.foundation.errors import QtxError

RECIPE = {"random_resized_crop": True, "flip": True, "randaugment_layers": 2, "color_jitter": 0.4}
TRANSFORMS = {
    "random_resized_crop": lambda image, rng: random_resized_crop(image, rng, 12),
    "random_flip": random_flip,
    "color_jitter": lambda image, rng: color_jitter(image, rng, 0.4),
    "randaugment": lambda image, rng: RandAugment(layers=5)(image, rng, (9,) * image.shape[-1]),
    "recipe": lambda image, rng: ImageOptions(**RECIPE).make_augment(12, np.full(image.shape[-1], 9.0))(image, rng),
}


def picture(channels=3, size=12, seed=0):
    """A gradient with noise: no two transforms of it look alike."""
    y, x = np.mgrid[:size, :size] * 200 / size
    noise = np.random.default_rng(seed).integers(0, 50, (size, size, channels))
    return (np.stack([x, y, (x + y) / 2][:channels], -1) + noise).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_keeps_the_kind_of_image_and_depends_on_its_generator_alone(name, channels):
    image = picture(channels)
    original = image.copy()
    results = [TRANSFORMS[name](image, np.random.default_rng(seed)) for seed in (1, 1, *range(2, 12))]
    assert {(result.shape, result.dtype) for result in results} == {((12, 12, channels), np.dtype(np.uint8))}
    np.testing.assert_array_equal(results[0], results[1])
    assert len({result.tobytes() for result in results}) > 1
    np.testing.assert_array_equal(image, original)


@pytest.mark.parametrize("size", [(9, 9), (5, 40), (40, 5), (1, 1), (30, 20)])
def test_resized_crops_of_any_image_have_the_size_that_is_asked_for(size):
    image = np.full((*size, 3), (200, 100, 0), np.uint8)
    for seed in range(20):
        result = random_resized_crop(image, np.random.default_rng(seed), 8)
        assert (result == np.full((8, 8, 3), (200, 100, 0))).all()


def test_resized_crops_cover_the_areas_and_ratios_of_the_recipe():
    # Red and green are the coordinates of a pixel: a crop's range of them is its extent.
    y, x = np.mgrid[:200, :200]
    image = np.stack([x, y, x], -1).astype(np.uint8)
    extents = []
    for seed in range(300):
        crop = random_resized_crop(image, np.random.default_rng(seed), 64).astype(float)
        extents.append([np.ptp(crop[..., 0]) / 200, np.ptp(crop[..., 1]) / 200])
    width, height = np.array(extents).T
    area, ratio = width * height, width / height
    assert area.min() > 0.05 and area.min() < 0.15 and area.max() > 0.85
    assert ratio.min() > 0.7 and ratio.min() < 0.8 and 1.25 < ratio.max() < 1.42


NOTHING = {"solarize_add": 0.0, "color": 0.5, "contrast": 0.5, "brightness": 0.5, "sharpness": 0.5}
NOTHING |= {"solarize": 1.0} | dict.fromkeys(WARPS, 0.0)


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_each_operation_does(name):
    image = Image.fromarray(picture(size=48))
    pixels = np.asarray(image).astype(int)
    apply = functools.partial(WARPS[name], resample=2, fillcolor=(9, 9, 9)) if name in WARPS else PIXEL_OPERATIONS[name]
    if name in NOTHING:
        np.testing.assert_array_equal(np.asarray(apply(image, NOTHING[name])), pixels)
    result = np.asarray(apply(image, 0.9)).astype(int)
    expected = {
        "auto_contrast": lambda: result.min() == 0 and result.max() == 255,
        "equalize": lambda: np.ptp(np.asarray(apply(image.point(lambda value: value // 2), 0.9))) > 240,
        "invert": lambda: (result == 255 - pixels).all(),
        "posterize": lambda: (result == pixels // 32 * 32).all(),
        "solarize": lambda: (result == np.where(pixels < 230, pixels, 255 - pixels)).all(),
        "solarize_add": lambda: (result == np.where(pixels < 128, pixels + 99, pixels)).all(),
        "color": lambda: np.ptp(result, axis=-1).mean() > np.ptp(pixels, axis=-1).mean(),
        "contrast": lambda: result.std() > pixels.std(),
        "brightness": lambda: result.mean() > pixels.mean(),
        "sharpness": lambda: np.abs(np.diff(result, axis=0)).mean() > np.abs(np.diff(pixels, axis=0)).mean(),
        "rotate": lambda: (result[0, 0] == 9).all() and np.abs(result[24, 24] - pixels[24, 24]).max() < 40,
        "shear_x": lambda: (result[-1, -1] == 9).all() and not (result[0, -1] == 9).all(),
        "shear_y": lambda: (result[-1, -1] == 9).all() and not (result[-1, 0] == 9).all(),
        "translate_x": lambda: (result[:, -4:] == 9).all() and not (result[:, 0] == 9).all(),
        "translate_y": lambda: (result[-4:] == 9).all() and not (result[0] == 9).all(),
    }
    assert expected[name]()


def test_half_of_the_operations_are_applied():
    image = picture()
    kept = sum(
        np.array_equal(RandAugment(1)(image, np.random.default_rng(seed), (9, 9, 9)), image) for seed in range(400)
    )
    assert 160 < kept < 260
    assert np.array_equal(RandAugment(0)(image, np.random.default_rng(0), (9, 9, 9)), image)


def pair(size=10):
    """Two images with nothing in common: all zeros and all ones, labels 0 and 1."""
    return [
        {"images": np.full((size, size, 3), label, np.float32), "labels": np.int32(label), "weights": np.float32(1)}
        for label in (0, 1)
    ]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(0.2, 0.0), (0.0, 0.2), (0.2, 0.2), (1.0, 1.0)]), st.integers(1, 12))
def test_the_share_of_the_mixed_label_is_that_of_its_pixels(seed, alphas, size):
    examples = pair(size)
    mixed = Mixing(*alphas)(examples, np.random.default_rng(seed))
    for example, original, other in zip(mixed, examples, examples[::-1], strict=True):
        assert {name: (np.asarray(x).dtype, np.shape(x)) for name, x in example.items()} == {
            "images": (np.float32, (size, size, 3)),
            "labels": (np.int32, ()),
            "weights": (np.float32, ()),
            "mixed_labels": (np.int32, ()),
            "mixed_share": (np.float32, ()),
        }
        assert (example["labels"], example["mixed_labels"]) == (original["labels"], other["labels"])
        of_one = example["mixed_share"] if other["labels"] == 1 else 1 - example["mixed_share"]
        np.testing.assert_allclose(example["images"].mean(), of_one, atol=1e-6)
        assert 0 <= example["mixed_share"] <= 1
    assert mixed[0]["mixed_share"] == mixed[1]["mixed_share"]
    again = Mixing(*alphas)(examples, np.random.default_rng(seed))
    np.testing.assert_array_equal(mixed[0]["images"], again[0]["images"])


def test_both_ways_of_mixing_are_drawn_and_a_cutmix_is_a_rectangle():
    cut = 0
    for seed in range(300):
        first, _ = Mixing(1.0, 1.0)(pair(), np.random.default_rng(seed))
        image = first["images"][..., 0]
        if set(np.unique(image)) <= {0.0, 1.0}:
            cut += 1
            rows, columns = image.any(1), image.any(0)
            assert image.sum() == rows.sum() * columns.sum()
            assert (np.abs(np.diff(rows.astype(int))).sum() <= 2) and (np.abs(np.diff(columns.astype(int))).sum() <= 2)
    assert 110 < cut < 190


def test_the_options_reach_the_data():
    plain = load(DataConfig(Digits()), "classification")
    assert plain.augment is None and plain.mix is None
    data = load(DataConfig(Digits(mixup=0.2, cutmix=0.2, **RECIPE)), "classification")
    assert data.mix == Mixing(0.2, 0.2)
    batch = next(data.train(8, seed=0))
    again = next(data.train(8, seed=0))
    for name in batch:
        np.testing.assert_array_equal(batch[name], again[name])
    assert batch["images"].shape == (8, 8, 8, 1) and batch["mixed_share"].shape == (8,)
    unmixed = next(iter(data.evaluation(8)))
    assert unmixed.keys() == {"images", "labels", "weights"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"random_crop": -1}, "random_crop is -1: expected 0 or more"),
        ({"random_crop": 2, "random_resized_crop": True}, "random_crop and random_resized_crop are both set"),
        ({"color_jitter": -0.1}, "color_jitter is -0.1: expected 0"),
        ({"randaugment_layers": -2}, "randaugment_layers is -2: expected 0"),
        ({"randaugment_magnitude": 11.0}, "randaugment_magnitude is 11.0: expected 0 to 10"),
        ({"randaugment_std": float("nan")}, "randaugment_std is nan"),
        ({"mixup": -1.0}, "mixup is -1.0: expected 0"),
        ({"cutmix": float("inf")}, "cutmix is inf: expected 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(QtxError, match=message):
        DataConfig(Digits(**options))
