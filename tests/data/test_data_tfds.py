"""TFDS datasets by name: written by TFDS to disk, found, read, and every complaint."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds

from qtx.data import DataConfig, load, prepare_data
from qtx.data.prepared.documents import clean_wiki40b
from qtx.data.resizing import resized_to
from qtx.data.sources import ImageCorpus, TextCorpus
from qtx.data.tfds_datasets import find_dataset
from qtx.foundation.errors import QtxError

from . import tfds_samples
from .samples import prose


def text_config(data_dir, *corpora, **options) -> DataConfig:
    options = {"sequence_length": 16, "vocab_size": 150, "data_dir": str(data_dir)} | options
    return DataConfig(TextCorpus(corpora=corpora, **options))


def image_config(data_dir, corpus, **options) -> DataConfig:
    return DataConfig(ImageCorpus(corpus=corpus, data_dir=str(data_dir), **options))


def decoded(data, records) -> str:
    return " ".join(data.tokenizer.decode(records[i]) for i in range(len(records)))


def test_clean_wiki40b():
    text = "\n_START_ARTICLE_\nA title\n_START_SECTION_\nHistory\n_START_PARAGRAPH_\nOne._NEWLINE_Two."
    assert clean_wiki40b(text) == "A title\nHistory\nOne.\nTwo."


# Dataset, its name in a config, and the words only its held-out documents have (None: a share of train is held out).
TEXTS = {
    "wiki40b": (tfds_samples.write_wiki40b, "tfds:wiki40b/en", range(40, 46)),
    "lm1b": (tfds_samples.write_lm1b, "tfds:lm1b:1.1.0", (61, 62)),
    "wikipedia": (tfds_samples.write_wikipedia, "tfds:wikipedia/20230601.en", None),
}


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_text_by_name(tmp_path, name):
    write, corpus, held_out = TEXTS[name]
    write(tmp_path)
    data = load(text_config(tmp_path, corpus), "mlm")
    train, validation = decoded(data, data.training), decoded(data, data.held_out)
    assert "_start_" not in train and "_newline_" not in train
    assert 0 < len(data.held_out) < len(data.training) / 3
    if held_out is not None:
        words = [prose(i, 30).replace(".", "").split() for i in held_out]
        phrases = [" ".join(document[i : i + 4]) for document in words for i in range(25)]
        # But for sentences' ends and words that blocks cut.
        assert sum(phrase in validation for phrase in phrases) > 0.4 * len(phrases)
        assert sum(phrase in train for phrase in phrases) == 0
    next(iter(data.train(4, 0)))


IMAGES = {
    "fashion_mnist": (tfds_samples.write_fashion_mnist, {}, (28, 1, 3), (30, 12)),
    "cifar10": (tfds_samples.write_cifar10, {"random_crop": 2}, (32, 3, 3), (30, 12)),
    "imagenet2012": (
        tfds_samples.write_imagenet,
        {"image_size": 24, "random_resized_crop": True, "flip": True},
        (24, 3, 2),
        (20, 6),
    ),
}


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_images_by_name(tmp_path, name):
    write, options, (size, channels, classes), counts = IMAGES[name]
    write(tmp_path)
    data = load(image_config(tmp_path, f"tfds:{name}", **options), "classification")
    assert (data.image_size, data.channels, data.num_classes) == (size, channels, classes)
    assert (len(data.training), len(data.held_out)) == counts
    batch = next(iter(data.train(6, 0)))
    assert batch["images"].shape == (6, size, size, channels) and batch["images"].dtype == np.float32
    labels = np.concatenate([batch["labels"] for batch in data.evaluation(counts[1])])
    assert sorted(np.unique(labels)) == list(range(classes))


def test_pixels_and_labels_are_those_of_the_dataset(tmp_path):
    tfds_samples.write_fashion_mnist(tmp_path)
    data = load(image_config(tmp_path, "tfds:fashion_mnist", mean=(0.25,), std=(0.5,)), "classification")
    written = tfds.builder_from_directory(tmp_path / "fashion_mnist/3.0.1").as_data_source("test")
    batch = next(iter(data.evaluation(12)))
    for i in range(12):
        np.testing.assert_allclose(batch["images"][i], (written[i]["image"] / 255 - 0.25) / 0.5, atol=1e-6)
        assert batch["labels"][i] == written[i]["label"]


def test_images_of_sixteen_bits_become_eight_and_those_of_floats_are_refused(tmp_path):
    image = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4096
    label = tfds.features.ClassLabel(num_classes=2)
    for name, dtype, channels in (("scans", np.uint16, 1), ("icons", np.uint8, 4)):
        features = {"image": tfds.features.Image(shape=(4, 4, channels), dtype=dtype), "label": label}
        pixels = image if channels == 1 else np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
        splits = {s: [dict(image=tfds_samples.png_file(pixels), label=1)] for s in ("train", "test")}
        tfds_samples.write_tfds(tmp_path, f"{name}/1.0.0", features, splits)
    scans = load(image_config(tmp_path, "tfds:scans"), "classification")
    np.testing.assert_array_equal(scans.training[0][0][..., 0], np.round(image / 257))
    icons = load(image_config(tmp_path, "tfds:icons"), "classification")
    assert (icons.channels, icons.training[0][0].shape) == (3, (4, 4, 3))
    described = tmp_path / "scans/1.0.0/features.json"
    described.write_text(described.read_text().replace("uint16", "float32"))
    with pytest.raises(QtxError, match="the images of tfds:scans are of float32: expected uint8 or uint16"):
        load(image_config(tmp_path, "tfds:scans"), "classification")


def test_one_image_in_evaluation_is_resized_and_its_middle_cut_out(tmp_path):
    image = np.full((20, 40, 3), 100, np.uint8)
    image[:, 13:27] = 200
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)}
    tfds_samples.write_tfds(
        tmp_path,
        "toy/1.0.0",
        features,
        {s: [dict(image=tfds_samples.png_file(image), label=1)] for s in ("train", "test")},
    )
    data = load(
        image_config(tmp_path, "tfds:toy", image_size=10, crop_ratio=0.5, mean=(0,) * 3, std=(1,) * 3), "classification"
    )
    found = next(iter(data.evaluation(1)))["images"][0] * 255
    assert np.all(np.abs(found - 200) < 30)  # 20 x 40 stays, of which the middle 10 x 10 is bright


def test_the_newest_version_unless_one_is_named(tmp_path):
    features = {"text": tfds_samples.TEXT()}
    for version in ("1.9.0", "1.10.0"):
        tfds_samples.write_tfds(tmp_path, f"toy/{version}", features, {"train": [{"text": version}]})
    assert find_dataset("toy", str(tmp_path)).name == "toy/1.10.0"
    assert find_dataset("toy:1.9.0", str(tmp_path)).name == "toy/1.9.0"


def break_format(folder):
    file = folder / "dataset_info.json"
    file.write_text(file.read_text().replace("array_record", "tfrecord"))


def break_shard(folder):
    os.truncate(next(folder.glob("*.array_record*")), 1000)


def edit(name, change):
    def damage(folder):
        values = json.loads((folder / name).read_text())
        change(values)
        (folder / name).write_text(json.dumps(values))

    return damage


BROKEN = {
    "a class of another module": (
        edit("features.json", lambda v: v.update(pythonClassName="antigravity.Feature")),
        "has a feature 'antigravity.Feature', which is not one of TFDS's own",
    ),
    "a template that is a program": (
        edit("dataset_info.json", lambda v: [s.update(filepathTemplate="{SPLIT:>999999999}") for s in v["splits"]]),
        "its files are named by '{SPLIT:>999999999}'",
    ),
    "a shard elsewhere": (
        edit("dataset_info.json", lambda v: [s.update(filepathTemplate="../../{SPLIT}") for s in v["splits"]]),
        "names '.*', which is outside of it",
    ),
    "stored as tfrecord": (break_format, "stored as tfrecord.*tfds convert_format --dataset_version_dir=.*lm1b/1.1.0"),
    "a shard is missing": (
        lambda folder: next(folder.glob("*train*")).unlink(),
        "damaged: no .*lm1b-train",
    ),
    "a shard is cut short": (break_shard, "cannot read .*lm1b/1.1.0"),
    "no JSON": (lambda folder: (folder / "dataset_info.json").write_text("{"), "cannot read TFDS dataset .*lm1b/1.1.0"),
    "no train split": (
        lambda folder: (folder / "dataset_info.json").write_text(
            (folder / "dataset_info.json").read_text().replace('"name": "train"', '"name": "other"')
        ),
        "no split train: found other, test",
    ),
}


@pytest.mark.representative("a shard *", "no *")
@pytest.mark.parametrize("case", sorted(BROKEN))
def test_broken_datasets(tmp_path, case):
    change, message = BROKEN[case]
    change(tfds_samples.write_lm1b(tmp_path))
    with pytest.raises(QtxError, match=message) as caught:
        load(text_config(tmp_path, "tfds:lm1b"), "mlm")
    assert "\n" not in str(caught.value)


REFUSED = {
    "not there": (
        "tfds:wiki40b/en",
        "no TFDS dataset wiki40b/en in data_dir .*tfds build wiki40b/en --data_dir=",
    ),
    "another config": ("tfds:lm1b/other", r"no TFDS dataset lm1b/other"),
    "another version": ("tfds:lm1b:9.0.0", r"no TFDS dataset lm1b:9.0.0 .*lm1b: 1.1.0\)"),
    "no text": ("tfds:cifar10", "cifar10 has no feature text: found id, image, label"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_text_that_cannot_be(tmp_path, case):
    tfds_samples.write_lm1b(tmp_path)
    tfds_samples.write_cifar10(tmp_path)
    corpus, message = REFUSED[case]
    with pytest.raises(QtxError, match=message):
        load(text_config(tmp_path, corpus), "mlm")


def test_images_that_cannot_be(tmp_path):
    tfds_samples.write_lm1b(tmp_path)
    tfds_samples.write_imagenet(tmp_path)
    for corpus, options, message in (
        ("tfds:lm1b", {}, "lm1b has no feature image: found text"),
        ("tfds:imagenet2012", {}, "differ in size: set data.image_size"),
        ("tfds:imagenet2012", {"image_size": 8, "mean": (0.5,)}, r"mean has 1 numbers for images of 3 channel\(s\)"),
    ):
        with pytest.raises(QtxError, match=message):
            load(image_config(tmp_path, corpus, **options), "classification")
    with pytest.raises(QtxError, match="needs no preparation"):
        prepare_data(image_config(tmp_path, "tfds:imagenet2012", image_size=8), "classification")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corpus": ""}, "needs corpus"),
        ({"image_size": 0}, "image_size is 0"),
        ({"crop_ratio": 1.5}, "crop_ratio is 1.5"),
        ({"std": (0.0, 1.0, 1.0)}, "std is"),
    ],
)
def test_image_options_that_cannot_be(options, message):
    with pytest.raises(QtxError, match=message):
        DataConfig(ImageCorpus(**{"corpus": "tfds:x"} | options))


# (width, height), size and crop ratio -> what timm 1.0.31 resizes to: floor(size / ratio) for the shorter side, and
# torchvision's int(shorter * long / short) for the other.
RESIZED = [
    ((500, 375), 224, 0.9, (330, 248)),
    ((375, 500), 224, 0.9, (248, 330)),
    ((333, 500), 224, 0.875, (256, 384)),
    ((100, 100), 384, 1.0, (384, 384)),
    ((64, 48), 32, 0.9, (46, 35)),
]


@pytest.mark.parametrize(("sides", "size", "ratio", "expected"), RESIZED)
def test_images_are_resized_as_timm_does(sides, size, ratio, expected):
    assert resized_to(*sides, size, ratio) == expected
