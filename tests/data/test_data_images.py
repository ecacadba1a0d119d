"""The image sources: pixels, labels, normalization, augmentation, and every complaint."""

from __future__ import annotations

import gzip
import shutil
import zipfile
import zlib

import numpy as np
import pytest

from qtx.data import SOURCES, DataConfig, load
from qtx.data.image_files import open_image
from qtx.data.images import ImageOptions, channel_statistics
from qtx.data.sources.idx import read_idx
from qtx.foundation.errors import QtxError

from .samples import idx_bytes, png, write_archive, write_idx_folder


def load_images(source: str, **options):
    return load(DataConfig(SOURCES[source](**options)), "classification")


def pixels_and_labels(records):
    pairs = [records[i] for i in range(len(records))]
    return np.stack([image for image, _ in pairs]), np.array([label for _, label in pairs])


def test_digits_are_the_built_in_set():
    data = load_images("digits")
    assert (len(data.training), len(data.held_out)) == (1437, 360)
    assert (data.image_size, data.channels, data.num_classes) == (8, 1, 10)
    _, labels = pixels_and_labels(data.held_out)
    assert np.bincount(labels).min() > 20  # all classes are held out


def test_training_images_are_normalized():
    data = load_images("digits")
    rng = np.random.default_rng(0)
    images = np.stack([data.example(data.training[i], rng)["images"] for i in range(len(data.training))])
    assert images.dtype == np.float32
    assert abs(images.mean()) < 1e-4 and abs(images.std() - 1) < 1e-4


def test_channel_statistics():
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 5, 3), dtype=np.uint8)
    mean, deviation = channel_statistics(images)
    np.testing.assert_allclose(mean, images.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(deviation, images.std(axis=(0, 1, 2)), rtol=1e-6)


@pytest.mark.parametrize("compress", [False, True])
def test_idx_reads_what_was_written(compress, tmp_path):
    arrays = write_idx_folder(tmp_path / "set", compress)
    data = load_images("idx", path=str(tmp_path / "set"))
    for records, split in ((data.training, "train"), (data.held_out, "t10k")):
        images, labels = pixels_and_labels(records)
        np.testing.assert_array_equal(images[..., 0], arrays[f"{split}-images-idx3-ubyte"])
        np.testing.assert_array_equal(labels, arrays[f"{split}-labels-idx1-ubyte"])
    assert data.num_classes == 3


def test_fashion_mnist(shared_data):
    data = load_images("idx", path=str(shared_data / "fashion-mnist"))
    assert (len(data.training), len(data.held_out), data.image_size, data.num_classes) == (60_000, 10_000, 28, 10)
    images, labels = data.held_out.images, data.held_out.labels
    assert (np.bincount(labels) == 1000).all()
    assert abs(images.mean() / 255 - 0.2868) < 1e-3


@pytest.mark.parametrize("form", ["folder", "tar.xz", "zip"])
def test_image_folder_in_every_form(form, image_folder):
    path = image_folder
    if form == "tar.xz":
        path = write_archive(image_folder)
    if form == "zip":
        path = image_folder.with_suffix(".zip")
        with zipfile.ZipFile(path, "w") as archive:
            for file in image_folder.rglob("*"):
                archive.write(file, f"root/{file.relative_to(image_folder)}")
    data = load_images("image_folder", path=str(path))
    assert (len(data.training), len(data.held_out), data.num_classes, data.channels) == (12, 6, 2, 3)
    images, labels = pixels_and_labels(data.training)
    assert labels.tolist() == [0] * 6 + [1] * 6  # blue before red, files in order
    assert images[:, 4, 4, 2].tolist() == [40, 60, 80, 100, 120, 140] + [10] * 6


def test_image_size_crops_the_middle_square(image_folder):
    wide = image_folder / "train" / "red" / "0.png"
    wide.write_bytes(png((200, 0, 0), size=(24, 8)))
    with pytest.raises(QtxError, match="differ in size.*data.image_size"):
        load_images("image_folder", path=str(image_folder))
    data = load_images("image_folder", path=str(image_folder), image_size=4)
    image, _ = data.training[6]
    assert image.shape == (4, 4, 3)
    assert (image == (200, 0, 0)).all()  # the bright corner of the wide image is cropped away


def test_random_crop_shifts_and_pads_with_zeros():
    image = np.arange(1, 17, dtype=np.uint8).reshape(4, 4, 1)
    rng = np.random.default_rng(0)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    windows = [padded[i : i + 4, j : j + 4].tobytes() for i in range(3) for j in range(3)]
    augment = ImageOptions(random_crop=1).make_augment(4, np.zeros(1))
    seen = {augment(image, rng).tobytes() for _ in range(300)}
    assert seen == set(windows)


def test_flip_mirrors_about_half():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    rng = np.random.default_rng(0)
    augment = ImageOptions(flip=True).make_augment(4, np.zeros(1))
    flipped = 0
    for _ in range(1000):
        result = augment(image, rng)
        mirrored = np.array_equal(result, image[:, ::-1])
        assert mirrored or np.array_equal(result, image)
        flipped += mirrored
    assert 430 < flipped < 570


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x00\x0d\x03" + bytes(12), "begins 00000d03, expected 00000803"),
        (idx_bytes(np.zeros((2, 3), np.uint8)), "begins 00000802, expected 00000803"),
        (b"\x00\x00\x08", "not an IDX file"),
        (b"\x00\x00\x08\x03\x00", "not an IDX file"),
        (idx_bytes(np.zeros((2, 3, 3), np.uint8))[:-1], "has 33 bytes, expected 34.*truncated"),
        (idx_bytes(np.zeros((2, 3, 3), np.uint8)) + b"x", "has 35 bytes or more, expected 34"),
    ],
)
def test_broken_idx(content, message, tmp_path):
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(QtxError, match=message):
        read_idx(tmp_path / "images", dimensions=3)


def test_a_header_is_no_reason_to_take_memory(tmp_path):
    header = bytes([0, 0, 8, 3]) + b"\x7f\xff\xff\xff" * 3
    for name, content in {"images": header, "images.gz": gzip.compress(header)}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(QtxError, match="has 16 bytes, expected 9,903,520,300"):
            read_idx(tmp_path / name, dimensions=3)


def test_an_image_is_no_reason_to_take_memory_or_to_run_a_program():
    """A PNG that says to be 100,000 pixels wide and high, and PostScript, which Pillow has Ghostscript read."""
    head = b"IHDR" + (100_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    png = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + head + zlib.crc32(head).to_bytes(4, "big")
    png += bytes(4) + b"IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")
    for content, says in {png: "pixels", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n": "PostScript"}.items():
        with pytest.raises(QtxError, match=f"cannot decode it.*{says}"):
            open_image(content, "it")


def test_broken_gzip(tmp_path):
    (tmp_path / "images.gz").write_bytes(gzip.compress(idx_bytes(np.zeros((2, 3, 3), np.uint8)))[:-4])
    with pytest.raises(QtxError, match="cannot read .*images.gz"):
        read_idx(tmp_path / "images.gz", dimensions=3)


def test_bad_idx_folders(tmp_path):
    with pytest.raises(QtxError, match="source idx needs path"):
        load_images("idx")
    with pytest.raises(QtxError, match="no file .*train-images-idx3-ubyte or"):
        load_images("idx", path=str(tmp_path))
    folder = tmp_path / "set"
    write_idx_folder(folder, compress=False)

    def write(name, array):
        (folder / name).write_bytes(idx_bytes(array))

    write("t10k-labels-idx1-ubyte", np.zeros(3, np.uint8))
    with pytest.raises(QtxError, match="14 t10k images and 3 labels"):
        load_images("idx", path=str(folder))
    write("t10k-labels-idx1-ubyte", np.full(14, 7, np.uint8))
    with pytest.raises(QtxError, match="label 7"):
        load_images("idx", path=str(folder))
    write("t10k-labels-idx1-ubyte", np.zeros(14, np.uint8))
    write("t10k-images-idx3-ubyte", np.zeros((14, 6, 7), np.uint8))
    with pytest.raises(QtxError, match="6 x 6 x 1 and held-out ones 6 x 7 x 1"):
        load_images("idx", path=str(folder))
    write("t10k-images-idx3-ubyte", np.zeros((14, 6, 6), np.uint8))
    write("train-images-idx3-ubyte", np.zeros((30, 6, 6), np.uint8))
    with pytest.raises(QtxError, match="one value throughout"):
        load_images("idx", path=str(folder))


def test_bad_image_folders(image_folder, tmp_path):
    cases = [
        (dict(), "needs path"),
        (dict(path="x", image_size=0), "image_size is 0"),
        (dict(path="x", random_crop=-1), "random_crop is -1"),
        (dict(path=str(tmp_path / "missing")), "no folder or archive"),
        (dict(path=str(image_folder / "train")), "found images in no split|found images in train"),
        (dict(path=str(image_folder / "classes.txt")), "as an archive"),
    ]
    for options, message in cases:
        with pytest.raises(QtxError, match=message):
            load_images("image_folder", **options)
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(QtxError, match="broken.zip"):
        load_images("image_folder", path=str(tmp_path / "broken.zip"))
    (image_folder / "val" / "green").mkdir()
    (image_folder / "val" / "green" / "0.png").write_bytes(png((0, 9, 0)))
    with pytest.raises(QtxError, match="val has class green, which train lacks"):
        load_images("image_folder", path=str(image_folder))
    (image_folder / "train" / "red" / "0.png").write_bytes(b"not an image")
    with pytest.raises(QtxError, match="cannot decode image train/red/0.png"):
        load_images("image_folder", path=str(image_folder))


def test_links_are_followed_and_what_tools_leave_behind_is_no_image(image_folder, tmp_path):
    """A class that is a link, a split that is one, a circle; a notebook's copies and a desktop's."""
    (image_folder / "train" / "red").rename(tmp_path / "elsewhere")
    (image_folder / "train" / "red").symlink_to(tmp_path / "elsewhere")
    (image_folder / "val").rename(tmp_path / "held out")
    (image_folder / "val").symlink_to(tmp_path / "held out")
    (tmp_path / "elsewhere" / "up").symlink_to(image_folder)
    for name in (".ipynb_checkpoints/0-checkpoint.png", "blue/._0.png", "blue/.ipynb_checkpoints/1.png"):
        (image_folder / "train" / name).parent.mkdir(exist_ok=True)
        (image_folder / "train" / name).write_bytes(b"no image")
    data = load_images("image_folder", path=str(image_folder))
    assert (len(data.training), len(data.held_out), data.classes) == (12, 6, ("blue", "red"))
    assert "left out: 1 .txt)" in data.description  # classes.txt


def left_out(root):
    """Beside the images: other formats, among them all of a class; images in no class; links; an empty class."""
    for name in ("train/red/a.GIF", "train/green/0.gif", "val/green/0.gif", "train/red/more/0.png", "train/notes.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "train" / "red" / "gone.png").symlink_to("nowhere")
    (root / "train" / "lost").symlink_to("nowhere")
    (root / "train" / "empty").mkdir()
    shutil.rmtree(root / "val" / "red")
    (root / "val" / "red").mkdir()


@pytest.mark.parametrize("source", ["image_folder", "image_corpus"])
@pytest.mark.parametrize("form", ["folder", "tar.xz"])
def test_what_is_left_out_is_counted_and_told(form, source, image_folder, tmp_path):
    left_out(image_folder)
    path = str(write_archive(image_folder) if form == "tar.xz" else image_folder)
    if source == "image_folder":
        data = load_images(source, path=path)
    else:
        data = load_images(source, corpus=path, image_size=8, data_dir=str(tmp_path / "tfds"))
        again = load_images(source, corpus=path, image_size=8, data_dir=str(tmp_path / "tfds"))
        assert again.description == data.description
    assert (len(data.training), len(data.held_out), data.classes) == (12, 3, ("blue", "red"))
    link = "link in the archive" if form == "tar.xz" else "broken link"
    told = f"8 files left out: 3 .gif, 2 .txt, 2 {link}, 1 .png not in <split>/<class>/; no image in empty, green, "
    assert told + "lost, val/red" in data.description


def test_an_archive_of_a_mac(image_folder):
    path = image_folder.with_suffix(".ZIP")
    with zipfile.ZipFile(path, "w") as archive:
        for file in image_folder.rglob("*.png"):
            name = file.relative_to(image_folder)
            archive.write(file, f"photos/{name}")
            archive.writestr(f"__MACOSX/photos/{name.parent}/._{name.name}", b"\x00\x05\x16\x07")
        archive.writestr("photos/train/red/.DS_Store", b"x")
        link = zipfile.ZipInfo("photos/train/red/link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "0.png")
    data = load_images("image_folder", path=str(path))
    assert (len(data.training), len(data.held_out), data.num_classes) == (12, 6, 2)
    assert "(held out: val; 1 file left out: 1 link in the archive)" in data.description


@pytest.mark.slow
def test_tiny_imagenet(shared_data):
    data = load_images(
        "image_folder", path=str(shared_data / "tiny-imagenet-20" / "tiny-imagenet-20.tar.xz"), image_size=16
    )
    assert (len(data.training), len(data.held_out), data.num_classes) == (10_000, 1_000, 20)
    assert (np.bincount(pixels_and_labels(data.held_out)[1]) == 50).all()


@pytest.mark.parametrize("source", ["image_folder", "image_corpus"])
def test_the_first_held_out_images_are_of_all_classes(tmp_path, source):
    """Analysis and `eval_batches` look at a part of the held-out data, and folders are listed class by class."""
    for split, number in (("train", 1), ("val", 12)):
        for red, name in ((0, "a"), (120, "b"), (240, "c")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(number):
                (tmp_path / split / name / f"{i}.png").write_bytes(png((red, 5 * i, 0)))
    where = (
        {"path": str(tmp_path)}
        if source == "image_folder"
        else {"corpus": str(tmp_path), "data_dir": str(tmp_path / "t")}
    )
    data, again = (load_images(source, image_size=8, **where) for _ in range(2))
    labels = [batch["labels"].tolist() for batch in data.evaluation(12)]
    assert all(set(of_batch) == {0, 1, 2} for of_batch in labels)
    assert sorted(sum(labels, [])) == [0] * 12 + [1] * 12 + [2] * 12
    assert [batch["labels"].tolist() for batch in again.evaluation(12)] == labels
