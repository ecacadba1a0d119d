"""The 8 bits of images of every mode, what other files are called, and how images are brought to a model's size."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from qtx.data import SOURCES, DataConfig, load
from qtx.data.image_files import open_image, read_pixels
from qtx.data.image_kinds import eight_bits
from qtx.data.images import ImageOptions
from qtx.data.resizing import cut_to_size
from qtx.foundation.errors import QtxError

from .samples import write_idx_folder, write_images

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]
RGB = Image.fromarray(COLOUR)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_alpha(image: Image.Image) -> Image.Image:
    image.putalpha(Image.fromarray(RNG.integers(0, 256, (6, 5), dtype=np.uint8)))
    return image


LUMA = np.asarray(RGB.convert("L"))
# Image, and the grey or colour that it shows.
MODES = {
    "16 bits": (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
    "16 bits, big-endian": (Image.frombytes("I;16B", (5, 6), (GREY.astype(">u2") * 257).tobytes()), GREY),
    "32 bits with 16": (Image.fromarray(GREY.astype(np.int32) * 257), GREY),
    "1 bit": (Image.fromarray(GREY > 127), np.where(GREY > 127, 255, 0)),
    "grey with transparency": (with_alpha(Image.fromarray(GREY)), GREY),
    "colour with transparency": (with_alpha(RGB.copy()), COLOUR),
    "palette": (RGB.quantize(64), COLOUR),
}


@pytest.mark.parametrize("name", MODES)
def test_eight_bits_mean_what_the_mode_has(name):
    image, shown = MODES[name]
    colour = eight_bits(image, "it", 3)
    assert colour.shape == (6, 5, 3) and colour.dtype == np.uint8
    np.testing.assert_array_equal(colour, np.broadcast_to(shown.reshape(6, 5, -1), (6, 5, 3)))
    grey = eight_bits(image, "it", 1)
    assert grey.shape == (6, 5, 1) and grey.dtype == np.uint8
    # Of grey it is itself, of colour its luma; of the latter's weights the sum is rounded once.
    np.testing.assert_allclose(grey[..., 0], shown if shown.ndim == 2 else LUMA, atol=0 if shown.ndim == 2 else 1)


def test_sixteen_bits_are_divided_by_257_and_rounded():
    values = np.array([[0, 128, 129, 257, 32767, 32768, 65535]], np.uint16)
    found = read_pixels(encoded(Image.fromarray(values), "PNG"), "it", 1)
    np.testing.assert_array_equal(found[..., 0], [[0, 0, 1, 1, 127, 128, 255]])


def test_a_transparent_palette_is_read_without_a_warning():
    quantized = RGB.quantize(64)
    content = encoded(quantized, "PNG", transparency=bytes(range(64)))
    np.testing.assert_array_equal(read_pixels(content, "it", 3), COLOUR)


def test_what_eight_bits_do_not_hold_is_refused_by_name_and_mode():
    alone = Image.new("RGBA", (5, 6))
    alone.putalpha(Image.fromarray(GREY))
    beyond = Image.fromarray(np.array([[0, 70000]], np.int32))
    for image, says in (
        (Image.fromarray(GREY.astype(np.float32)), "scan.png has mode F"),
        (RGB.convert("LAB"), "scan.png has mode LAB"),
        (beyond, "scan.png has mode I and values from 0 to 70000"),
        (alone, "scan.png has mode RGBA and one colour throughout.*in the transparency alone"),
    ):
        with pytest.raises(QtxError, match=says):
            eight_bits(image, "scan.png", 3)


def test_webp_and_bmp_are_decoded_and_other_files_are_called_by_their_name():
    for kind, options in (("WEBP", {"lossless": True}), ("BMP", {})):
        np.testing.assert_array_equal(read_pixels(encoded(RGB, kind, **options), "it", 3), COLOUR)
    for content, says in {
        b"": "the file is empty",
        encoded(RGB.convert("P"), "GIF"): "the file is a GIF: expected JPEG, PNG, WebP or BMP",
        encoded(RGB, "TIFF"): "the file is a TIFF",
        b"\n<!DOCTYPE html><html>404": "the file is an HTML page",
        b"<svg xmlns=''/>": "the file is an SVG",
        bytes(4) + b"ftypavif" + bytes(9): "'avif'",
        bytes(128) + b"DICM": "a DICOM",
        b"version https://git-lfs.github.com/spec/v1": "a pointer of Git LFS",
        b"no image at all": "of no known kind, it begins 6e 6f 20 69",
        encoded(RGB, "JPEG")[:300]: "cannot decode train/a/0.jpg, a JPEG: ",
        encoded(RGB, "WEBP")[:40]: "a WebP",
    }.items():
        with pytest.raises(QtxError, match=says) as told:
            open_image(content, "train/a/0.jpg")
        assert "BytesIO" not in str(told.value)


# Mode, ratio, and where the middle lies of 10 x 7 pixels (width, height), of which 4 x 4 are wanted.
CUTS = [
    (None, 1.0, (5, 4), (0, 0)),  # 10 * 4 / 7 is 5.7; half a pixel is rounded to even
    ("center", 0.8, (7, 5), (2, 0)),
    ("floor", 0.8, (7, 5), (1, 0)),
    ("squash", 1.0, (4, 4), (0, 0)),
    ("squash", 0.5, (8, 8), (2, 2)),
]


@pytest.mark.parametrize(("mode", "ratio", "resized", "place"), CUTS)
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_the_middle_of_the_resized_image(mode, ratio, resized, place, interpolation):
    image = RNG.integers(0, 256, (7, 10, 3), dtype=np.uint8)
    whole = np.asarray(Image.fromarray(image).resize(resized, Image.Resampling[interpolation.upper()]))
    expected = whole[place[1] : place[1] + 4, place[0] : place[0] + 4]
    np.testing.assert_array_equal(cut_to_size(image, 4, ratio, mode, interpolation), expected)


def test_an_image_of_the_size_stays_unless_the_mode_is_named():
    image = RNG.integers(0, 256, (8, 8, 1), dtype=np.uint8)
    assert cut_to_size(image, 8, 0.8) is image
    assert not np.array_equal(cut_to_size(image, 8, 0.8, "center"), image)


def test_a_long_and_narrow_image_is_no_reason_to_take_memory():
    with pytest.raises(QtxError, match="an image of 60000 x 1 pixels would be one of 13440000 x 224"):
        cut_to_size(np.zeros((1, 60000, 3), np.uint8), 224, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_ratio": 1.5}, "crop_ratio is 1.5"),
        ({"crop_mode": "middle"}, "unknown crop_mode 'middle'"),
        ({"interpolation": "cubic"}, "unknown interpolation 'cubic'.*bicubic"),
        ({"channels": 4}, "channels is 4: expected 1 .grey. or 3"),
        ({"mean": ("a",)}, "mean is .*expected a number per channel"),
        ({"std": (1.0, 0.0, 1.0)}, "std is .*expected positive numbers"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(QtxError, match=message):
        ImageOptions(**options)


@pytest.fixture
def places(tmp_path):
    """Every source with files of images, and the value that a pixel of its first training image has."""
    write_idx_folder(tmp_path / "idx", compress=False)
    folder = str(write_images(tmp_path / "images"))
    return {
        "digits": {},
        "idx": {"path": str(tmp_path / "idx")},
        "image_folder": {"path": folder},
        "image_corpus": {"corpus": folder, "data_dir": str(tmp_path / "tfds")},
    }


@pytest.mark.parametrize("source", ["digits", "idx", "image_folder", "image_corpus"])
def test_every_source_can_be_told_size_channels_and_normalization(source, places):
    told = {"image_size": 4, "crop_mode": "squash", "interpolation": "nearest", "crop_ratio": 1.0}
    for channels, mean, std in ((1, (0.25,), (0.5,)), (3, (0.5, 0.25, 0.0), (0.5, 1.0, 0.25))):
        options = {**places[source], **told, "channels": channels, "mean": mean, "std": std}
        images = {}
        for objective in ("classification", "distill"):
            data = load(DataConfig(SOURCES[source](**options)), objective)
            assert (data.image_size, data.channels) == (4, channels)
            images[objective] = data.example(data.training[0], RNG)["images"]
        np.testing.assert_array_equal(*images.values())
        image = np.asarray(data.training[0][0])
        squashed = np.asarray(Image.fromarray(image.squeeze()).resize((4, 4), Image.Resampling.NEAREST))
        brightest = 16 if source == "digits" else 255
        expected = (squashed.reshape(4, 4, -1) / brightest - np.array(mean)) / np.array(std)
        np.testing.assert_allclose(images["distill"], expected, atol=1e-6)


def test_an_objective_without_labels_mixes_none():
    with pytest.raises(QtxError, match="mixup and cutmix mix labels, and objective 'distill' has none"):
        load(DataConfig(SOURCES["digits"](mixup=0.2)), "distill")


def test_augmented_images_are_not_cut_again(places):
    """With a crop_mode an image of just the size is cut too; not so one that augmentation has made that size."""
    options = {**places["image_corpus"], "image_size": 8, "crop_ratio": 0.5, "crop_mode": "center", "flip": True}
    data = load(DataConfig(SOURCES["image_corpus"](**options, mean=(0.0,) * 3, std=(1 / 255,) * 3)), "classification")
    record = data.training[0]
    once = cut_to_size(record[0], 8, 0.5, "center")
    for seed in range(3):
        augmented = np.round(data.augment(record, np.random.default_rng(seed))["images"])
        assert any(np.array_equal(augmented, either) for either in (once, once[:, ::-1]))
