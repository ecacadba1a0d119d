"""Image corpora of any size, read from disk and decoded as they are needed: TFDS datasets and your own folders."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from qtx.data.dataset import Data
from qtx.data.image_files import open_image
from qtx.data.images import ImageOptions, Record
from qtx.data.notes import described
from qtx.data.prepared.images import image_plan
from qtx.data.prepared.summary import told
from qtx.data.prepared.writing import Written, write
from qtx.data.tfds_datasets import DEFAULT_DATA_DIR, PREFIX, TRAINING_SPLIT, Dataset, find_dataset, open_dataset
from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import digest

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODES = {1: "L", 3: "RGB"}
READING_THREADS = 8


@dataclass(frozen=True)
class ImageCorpus(ImageOptions):
    """Labelled images on disk, read at random access: memory does not grow with the corpus.

    Training sees the augmentation of whole images, or without `random_resized_crop` what evaluation sees: the shorter
    side resized (bicubic) to `image_size / crop_ratio`, the middle square cut out; an image of just `image_size` stays.

    Attributes:
      corpus: `tfds:NAME` with features `image` and `label` (e.g. `tfds:imagenet2012`, `tfds:cifar10`), or a folder or
        archive of `<split>/<class>/<file>`, which is prepared (gathered into a TFDS dataset) at its first use.
      image_size: S, height and width in pixels; None is that of a TFDS dataset whose images have one size.
      crop_ratio: share of the resized image's shorter side that evaluation sees; 0.9 is timm's for ViT-S/16.
      mean: per channel, of values from 0 to 1; None is ImageNet's for colour, 0.5 for grey.
      std: likewise.
      data_dir: the folder of TFDS datasets, those to read and those prepared.
    """

    corpus: str = ""
    image_size: int | None = None
    crop_ratio: float = 0.9
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    data_dir: str = DEFAULT_DATA_DIR

    def __post_init__(self):
        super().__post_init__()
        if not self.corpus:
            raise QtxError("source image_corpus needs corpus: set data.corpus, e.g. 'tfds:imagenet2012' or 'images/'")
        if self.image_size is not None and self.image_size < 1:
            raise QtxError(f"image_size is {self.image_size}: expected 1 pixel or more")
        if not 0.0 < self.crop_ratio <= 1.0:
            raise QtxError(f"crop_ratio is {self.crop_ratio}: expected a number above 0 and at most 1, e.g. 0.9")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise QtxError(f"std is {self.std}: expected positive numbers, e.g. {IMAGENET_STD}")

    def load(self, objective: str) -> Data:
        import tensorflow_datasets as tfds

        note = ""
        if self.corpus.startswith(PREFIX):
            dataset = find_dataset(self.corpus.removeprefix(PREFIX), self.data_dir)
        else:
            (written,) = self.prepare(objective)
            dataset, note = open_dataset(written.folder), told(written)
        for name, kind in (("image", tfds.features.Image), ("label", tfds.features.ClassLabel)):
            if not isinstance(dataset.features.get(name), kind):
                raise QtxError(f"{self.corpus} has no feature {name}: found {', '.join(dataset.features)}")
        held_out_split = dataset.held_out_split
        if held_out_split is None:
            raise QtxError(f"{self.corpus} has no split to hold out: expected validation or test")
        height, width, channels = dataset.features["image"].shape
        size = self.image_size or (height if height == width else None)
        if size is None:
            raise QtxError(f"the images of {self.corpus} differ in size: set data.image_size, e.g. 224")
        mean, std = self._statistics(channels)
        read = _decoder(dataset, MODES[channels])
        training, held_out = (dataset.records(split, read) for split in (TRAINING_SPLIT, held_out_split))
        augment = self.make_augment(size, 255 * mean)

        def augmented(record: Record, rng: np.random.Generator) -> Record:
            image, label = record
            whole = image if self.random_resized_crop else cut_to_size(image, size, self.crop_ratio)
            return augment((whole, label), rng) if augment else (whole, label)

        def example(record: Record, rng: np.random.Generator) -> Batch:
            image, label = record
            pixels = cut_to_size(image, size, self.crop_ratio).astype(np.float32)
            return {"images": (pixels / 255 - mean) / std, "labels": label, "weights": np.float32(1.0)}

        classes = tuple(dataset.features["label"].names)
        return Data(
            description=described(
                f"image_corpus {self.corpus}: {len(training):,} training and {len(held_out):,} held-out "
                f"({held_out_split}) images at {size} x {size} x {channels}, "
                f"{len(classes)} classes",
                note,
            ),
            training=training,
            held_out=held_out,
            example=example,
            augment=augmented if augment else None,
            mix=self.mix,
            image_size=size,
            channels=channels,
            classes=classes,
            # What pixels are shifted and scaled by is part of what the model sees, and may be a default.
            digests={
                name: digest({"mean": mean, "std": std}, {"dataset": dataset.fingerprint(split)})
                for name, split in (("training", TRAINING_SPLIT), ("held_out", held_out_split))
            },
            reading_threads=READING_THREADS,
        )

    def prepare(self, objective: str) -> list[Written]:
        """Makes what `load` reads of one's own images, unless it is there.

        Raises:
          QtxError: for a TFDS dataset, which is read as it is.
        """
        if self.corpus.startswith(PREFIX):
            raise QtxError(f"{self.corpus} needs no preparation: training reads it as TFDS has written it")
        return [write(image_plan(self.corpus, self.data_dir))]

    def _statistics(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        colour = channels == 3
        given = self.mean or (IMAGENET_MEAN if colour else (0.5,)), self.std or (IMAGENET_STD if colour else (0.5,))
        for name, values in zip(("mean", "std"), given, strict=True):
            if len(values) != channels:
                raise QtxError(f"{name} has {len(values)} numbers for images of {channels} channel(s)")
        return np.array(given[0], np.float32), np.array(given[1], np.float32)


def _decoder(dataset: Dataset, mode: str) -> Callable[[dict[str, Any]], Record]:
    def decode(example: dict[str, Any]) -> Record:
        name = example.get("file_name", b"an image").decode()
        pixels = np.array(open_image(example["image"], f"{name} of {dataset.folder}").convert(mode))
        return pixels.reshape(*pixels.shape[:2], -1), np.int32(example["label"])

    return decode


def resized_to(width: int, height: int, size: int, crop_ratio: float) -> tuple[int, int]:
    """Width and height before the middle is cut out: the shorter side is `size / crop_ratio`, both rounded down, as
    timm (`transforms_imagenet_eval`) and torchvision (`Resize`) do."""
    shorter = math.floor(size / crop_ratio)
    longer = int(shorter * max(width, height) / min(width, height))
    return (shorter, longer) if width <= height else (longer, shorter)


def cut_to_size(image: np.ndarray, size: int, crop_ratio: float) -> np.ndarray:
    """The middle of an image: uint8 [H, W, C] to [size, size, C].

    The shorter side is resized (bicubic) to `size / crop_ratio` and the middle square cut out, as timm evaluates; an
    image of that size already is returned as it is.
    """
    height, width, channels = image.shape
    if (height, width) == (size, size):
        return image
    pixels = Image.fromarray(image if channels > 1 else image[..., 0])
    resized = pixels.resize(resized_to(width, height, size, crop_ratio), Image.Resampling.BICUBIC)
    left, top = round((resized.width - size) / 2), round((resized.height - size) / 2)
    array = np.asarray(resized.crop((left, top, left + size, top + size)))
    return array if channels > 1 else array[..., None]
