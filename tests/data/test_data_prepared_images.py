"""Image folders prepared on disk: the files' own bytes, decoded as they are read; and every complaint."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from qtx.data import DataConfig, load, prepare_data
from qtx.data.prepared import images
from qtx.data.prepared.writing import write
from qtx.data.sources import ImageCorpus
from qtx.foundation.errors import QtxError

from .samples import png, write_archive


def config(folder: Path, corpus: Path, **options) -> DataConfig:
    options = {"image_size": 8, "data_dir": str(folder / "tfds")} | options
    return DataConfig(ImageCorpus(corpus=str(corpus), **options))


def test_the_files_are_kept_as_they_are(image_folder, tmp_path):
    jpeg = io.BytesIO()
    Image.new("L", (9, 8), 77).save(jpeg, "jpeg")
    (image_folder / "train" / "red" / "grey.JPG").write_bytes(jpeg.getvalue())
    (written,) = prepare_data(config(tmp_path, image_folder), "classification")
    builder = tfds.builder_from_directory(written.folder)
    assert builder.info.features["label"].names == ["blue", "red"]
    source = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    assert len(source) == 13 and written.splits["validation"]["images"] == 6
    for example in source:
        name = example["file_name"].decode()
        assert (image_folder / name).read_bytes() == example["image"]
        assert name.split("/")[1] == ["blue", "red"][example["label"]]
    data = load(config(tmp_path, image_folder), "classification")
    assert all(data.training[i][0].shape[2] == 3 for i in range(13))


def test_folder_and_archive_hold_the_same(image_folder, tmp_path):
    loaded = [
        load(config(tmp_path, corpus), "classification") for corpus in (image_folder, write_archive(image_folder))
    ]
    pixels = [sorted((data.training[i][0].tobytes(), int(data.training[i][1])) for i in range(12)) for data in loaded]
    assert pixels[0] == pixels[1]


def test_found_again_until_an_image_changes(image_folder, tmp_path):
    (first,) = prepare_data(config(tmp_path, image_folder), "classification")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "tfds").rglob("*")}
    (again,) = prepare_data(config(tmp_path, image_folder, flip=True, image_size=4), "classification")
    assert again.seconds is None
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "tfds").rglob("*")} == before
    (image_folder / "train" / "red" / "0.png").write_bytes(png((1, 2, 3)))
    (after,) = prepare_data(config(tmp_path, image_folder), "classification")
    assert after.folder != first.folder
    (image_folder / "train" / "red" / "0.png").rename(image_folder / "train" / "blue" / "new.png")
    (moved,) = prepare_data(config(tmp_path, image_folder), "classification")
    assert moved.folder not in (first.folder, after.folder)


def test_hidden_files_change_nothing(image_folder, tmp_path):
    (first,) = prepare_data(config(tmp_path, image_folder), "classification")
    (image_folder / "train" / "red" / "._0.png").write_bytes(b"x")
    (image_folder / ".DS_Store").write_bytes(b"x")
    (again,) = prepare_data(config(tmp_path, image_folder), "classification")
    assert again.folder == first.folder and again.seconds is None


def test_it_goes_on_after_the_last_finished_shard(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "BATCH", 2)
    broken = image_folder / "train" / "red" / "3.png"
    content = broken.read_bytes()
    plan = images.image_layout(str(image_folder), str(tmp_path / "tfds"))
    broken.write_bytes(b"no image")
    with pytest.raises(QtxError, match="cannot decode image train/red/3.png"):
        write(plan, shard_bytes=1)
    partial = plan.folder.with_name("incomplete.1.0.0")
    finished = {path.name: path.stat().st_mtime_ns for path in partial.glob("*.array_record*")}
    assert len(finished) == 4 and not plan.folder.exists()  # 6 blue images and 2 red ones
    broken.write_bytes(content)
    write(plan, shard_bytes=1)
    assert {name: (plan.folder / name).stat().st_mtime_ns for name in finished} == finished
    source = tfds.builder_from_directory(plan.folder).as_data_source("train")
    assert [example["label"] for example in source] == [0] * 6 + [1] * 6
    assert len({example["file_name"] for example in source}) == 12


def test_training_crops_at_random_and_evaluation_in_the_middle(tmp_path):
    ramp = np.linspace(0, 255, 32).astype(np.uint8)[None, :, None].repeat(24, 0).repeat(3, 2)
    for split in ("train", "val"):
        (tmp_path / "images" / split / "only").mkdir(parents=True)
        Image.fromarray(ramp).save(tmp_path / "images" / split / "only" / "0.png")
    options = dict(image_size=12, mean=(0.0,) * 3, std=(1.0,) * 3)
    data = load(config(tmp_path, tmp_path / "images", random_resized_crop=True, **options), "classification")
    training = next(data.train(8, 0))["images"]
    assert training.shape == (8, 12, 12, 3) and len({image.tobytes() for image in training}) == 8
    (evaluated,) = next(iter(data.evaluation(1)))["images"]
    assert abs(float(evaluated.mean()) - 0.5) < 0.04  # half a pixel beside the middle
    assert evaluated[0, 0, 0] < 0.25 and evaluated[0, -1, 0] > 0.75
    plain = load(config(tmp_path, tmp_path / "images", flip=True, **options), "classification")
    for image in next(plain.train(8, 0))["images"]:
        assert np.array_equal(image, evaluated) or np.array_equal(image[:, ::-1], evaluated)


def remove(folder: Path) -> None:
    for file in sorted(folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()


BAD = {
    "nothing there": (lambda folder: (remove(folder), folder.rmdir()), "no folder or archive"),
    "no held-out split": (lambda folder: remove(folder / "val"), "found images in train: expected"),
    "an unknown class": (
        lambda folder: (folder / "val" / "red").rename(folder / "val" / "green"),
        "val has class green, which train lacks",
    ),
    "a broken image": (
        lambda folder: (folder / "val" / "red" / "0.png").write_bytes(b"text"),
        "cannot decode image val/red/0.png",
    ),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_folders_that_cannot_be(image_folder, tmp_path, case):
    change, message = BAD[case]
    change(image_folder)
    with pytest.raises(QtxError, match=message):
        load(config(tmp_path, image_folder), "classification")
    assert not list((tmp_path / "tfds").glob("qtx_images/*/1.0.0"))


def test_an_image_cut_short_is_named_when_it_is_read(image_folder, tmp_path):
    file = image_folder / "val" / "blue" / "0.png"
    file.write_bytes(file.read_bytes()[:-30])
    data = load(config(tmp_path, image_folder), "classification")
    with pytest.raises(QtxError, match="cannot decode val/blue/0.png of .*qtx_images"):
        [data.held_out[i] for i in range(len(data.held_out))]
    with pytest.raises(QtxError, match="cannot decode val/blue/0.png"):
        list(data.evaluation(2))
