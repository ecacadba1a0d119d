"""Small TFDS datasets on disk with the names, versions and features that TFDS publishes, written by TFDS itself."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from .samples import prose

TEXT = tfds.features.Text


def write_tfds(
    data_dir: Path, name: str, features: Mapping[str, Any], splits: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Path:
    """Writes `name` = dataset[/config]/version as array_record; returns its folder."""
    dataset, *config, version = name.split("/")

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def split_generators(self, dl_manager):
        return {split: ((i, example) for i, example in enumerate(examples)) for split, examples in splits.items()}

    class Sample(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=c, version=version, description="") for c in config]
        _info = info
        _split_generators = split_generators
        _generate_examples = None
        url_infos: dict = {}  # nothing is downloaded

    Sample(data_dir=data_dir, file_format="array_record", config=config[0] if config else None).download_and_prepare()
    return data_dir / name


def article(seed: int) -> str:
    """An article as wiki40b has it."""
    return (
        f"\n_START_ARTICLE_\nTitle {seed}\n_START_PARAGRAPH_\n{prose(seed, 60).strip()}_NEWLINE_More."
        f"\n_START_SECTION_\nHistory\n_START_PARAGRAPH_\n{prose(seed + 1000, 60).strip()}"
    )


def write_wiki40b(data_dir: Path) -> Path:
    features = {"wikidata_id": TEXT(), "text": TEXT(), "version_id": TEXT()}
    splits = {
        split: [{"wikidata_id": f"Q{i}", "text": article(i), "version_id": "1"} for i in range(*span)]
        for split, span in (("train", (0, 40)), ("validation", (40, 46)), ("test", (46, 52)))
    }
    return write_tfds(data_dir, "wiki40b/en/1.3.0", features, splits)


def write_lm1b(data_dir: Path) -> Path:
    splits = {"train": [{"text": prose(i, 30)} for i in range(60)], "test": [{"text": prose(i, 30)} for i in (61, 62)]}
    return write_tfds(data_dir, "lm1b/1.1.0", {"text": TEXT()}, splits)


def write_wikipedia(data_dir: Path) -> Path:
    splits = {"train": [{"title": f"T{i}", "text": prose(i, 80)} for i in range(30)]}
    return write_tfds(data_dir, "wikipedia/20230601.en/1.0.0", {"title": TEXT(), "text": TEXT()}, splits)


def write_imdb_reviews(data_dir: Path) -> Path:
    """With the order of names that TFDS has, and a split of texts without labels."""
    features = {"text": TEXT(), "label": tfds.features.ClassLabel(names=["neg", "pos"])}
    splits = {
        split: [{"text": prose(i, 20), "label": i % 2 if split != "unsupervised" else -1} for i in range(*span)]
        for split, span in (("train", (0, 30)), ("test", (30, 40)), ("unsupervised", (40, 44)))
    }
    return write_tfds(data_dir, "imdb_reviews/plain_text/1.0.0", features, splits)


def pixels(seed: int, height: int, width: int, channels: int) -> np.ndarray:
    """A smooth image, uint8 [H, W, C], brighter to one side."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, width)[None, :, None] + rng.integers(0, 50, (height, 1, channels))
    return ramp.astype(np.uint8)


def png_file(image: np.ndarray) -> io.BytesIO:
    """An image uint8 [H, W, C] as a file; from an array, TFDS encodes with TensorFlow."""
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, "png")
    buffer.seek(0)
    return buffer


def write_fashion_mnist(data_dir: Path) -> Path:
    features = {
        "image": tfds.features.Image(shape=(28, 28, 1)),
        "label": tfds.features.ClassLabel(names=["T-shirt/top", "Trouser", "Pullover"]),
    }
    return write_tfds(data_dir, "fashion_mnist/3.0.1", features, _images((28, 28, 1), (30, 12)))


def write_cifar10(data_dir: Path) -> Path:
    features = {
        "id": TEXT(),
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(names=["airplane", "automobile", "bird"]),
    }
    splits = _images((32, 32, 3), (30, 12))
    named = {s: [{**e, "id": f"{s}_{i:05d}"} for i, e in enumerate(examples)] for s, examples in splits.items()}
    return write_tfds(data_dir, "cifar10/3.0.2", features, named)


def _images(shape: tuple[int, int, int], counts: tuple[int, int]) -> dict[str, list]:
    return {
        split: [{"image": png_file(pixels(1000 * (split == "test") + i, *shape)), "label": i % 3} for i in range(count)]
        for split, count in zip(("train", "test"), counts, strict=True)
    }


def write_imagenet(data_dir: Path) -> Path:
    """JPEG files of several sizes, one of them grey, as ImageNet has them too."""
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=["n01440764", "n01443537"]),
        "file_name": TEXT(),
    }

    def jpeg(seed: int) -> io.BytesIO:
        image = Image.fromarray(pixels(seed, 40 + seed % 7, 50 - seed % 11, 3))
        buffer = io.BytesIO()
        (image.convert("L") if seed == 3 else image).save(buffer, "jpeg")
        buffer.seek(0)
        return buffer

    splits = {
        split: [{"image": jpeg(i), "label": i % 2, "file_name": f"n_{i}.JPEG"} for i in range(*span)]
        for split, span in (("train", (0, 20)), ("validation", (20, 26)))
    }
    return write_tfds(data_dir, "imagenet2012/5.1.0", features, splits)
