"""Image corpora of any size, read from disk and decoded as they are needed: TFDS datasets and your own folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qtx.data.classes import Numbering, check_classes, in_order, lacking
from qtx.data.dataset import Data
from qtx.data.image_files import read_pixels
from qtx.data.images import ImageOptions, Record
from qtx.data.notes import described
from qtx.data.objectives import Objective
from qtx.data.prepared.images import image_layout
from qtx.data.prepared.summary import told
from qtx.data.prepared.writing import Written, write
from qtx.data.records import Shuffled
from qtx.data.resizing import cut_to_size as cut_to_size  # it was defined here, and is imported from here
from qtx.data.tfds_datasets import DEFAULT_DATA_DIR, PREFIX, TRAINING_SPLIT, Dataset, find_dataset, open_dataset
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import digest

CHANNELS = {1: 1, 2: 1, 3: 3, 4: 3, None: 3}
"""Channels of an image without its transparency, by the channels of its feature."""
READING_THREADS = 8


@dataclass(frozen=True)
class ImageCorpus(ImageOptions):
    """Labelled images on disk, read at random access: memory does not grow with the corpus.

    Training augments whole images or, without `random_resized_crop`, images as evaluation sees them: the shorter side
    resized to `image_size / crop_ratio`, the middle square cut out (see `cut_to_size`).

    Attributes:
      corpus: `tfds:NAME` with features `image` and `label` (e.g. `tfds:imagenet2012`, `tfds:cifar10`), or a folder or
        archive of `<split>/<class>/<file>`, which is prepared (gathered into a TFDS dataset) at its first use.
      classes: the names of the classes in the order of their numbers; None: those of the TFDS dataset, or those of a
        folder's `train`, sorted, as numbers if all are.
      image_size: S, height and width in pixels; None: the size of a TFDS dataset's images, if all have the same.
      crop_ratio: share of the resized image's shorter side that evaluation sees; 0.9 is timm's for ViT-S/16.
      mean: mean per channel, of values from 0 to 1; None is ImageNet's for colour, 0.5 for grey.
      std: standard deviation per channel, of values from 0 to 1; None as for `mean`.
      data_dir: the folder of TFDS datasets, those to read and those prepared.
    """

    classes: tuple[str, ...] | None = None
    crop_ratio: float = 0.9
    corpus: str = ""
    data_dir: str = DEFAULT_DATA_DIR

    def __post_init__(self):
        super().__post_init__()
        if not self.corpus:
            raise QtxError("source image_corpus needs corpus: set data.corpus, e.g. 'tfds:imagenet2012' or 'images/'")
        check_classes(self.classes)

    def load(self, objective: Objective) -> Data:
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
        if (dtype := np.dtype(dataset.features["image"].np_dtype)) not in (np.uint8, np.uint16):
            raise QtxError(f"the images of {self.corpus} are of {dtype}: expected uint8 or uint16")
        held_out_split = dataset.held_out_split
        if held_out_split is None:
            raise QtxError(f"{self.corpus} has no split to hold out: expected validation or test")
        height, width, found = dataset.features["image"].shape
        size, channels = self.image_size or (height if height == width else None), self.channels or CHANNELS[found]
        if size is None:
            raise QtxError(f"the images of {self.corpus} differ in size: set data.image_size, e.g. 224")
        mean, std = self.normalization(channels)
        names = dataset.features["label"].names
        own = tuple(names) if self.corpus.startswith(PREFIX) else in_order(names)
        numbering = Numbering(own if self.classes is None else self.classes)
        numbers = [numbering.number(name, self.corpus) for name in names]
        read = _decoder(dataset, channels, numbers)
        training, held_out = (dataset.records(split, read) for split in (TRAINING_SPLIT, held_out_split))
        return self.make_data(
            described(
                f"image_corpus {self.corpus}: {len(training):,} training and {len(held_out):,} held-out "
                f"({held_out_split}) images at {size} x {size} x {channels}, "
                f"{len(numbering.classes)} classes{lacking(numbering.classes, numbers)}",
                note,
            ),
            numbering.classes,
            training,
            held_out if self.corpus.startswith(PREFIX) else Shuffled(held_out),
            (size, channels),
            (mean, std),
            objective,
            # The normalization is part of what the model sees, and may be a default.
            digests={
                name: digest({"mean": mean, "std": std}, {"dataset": dataset.fingerprint(split)})
                for name, split in (("training", TRAINING_SPLIT), ("held_out", held_out_split))
            },
            reading_threads=READING_THREADS,
        )

    def prepare(self, objective: Objective) -> list[Written]:
        """Makes the dataset that `load` reads from your own images, unless it exists.

        Raises:
          QtxError: for a TFDS dataset, which is read as it is.
        """
        if self.corpus.startswith(PREFIX):
            raise QtxError(f"{self.corpus} needs no preparation: training reads it as TFDS has written it")
        return [write(image_layout(self.corpus, self.data_dir, known=self.classes is not None))]


def _decoder(dataset: Dataset, channels: int, numbers: Sequence[int]) -> Callable[[dict[str, Any]], Record]:
    """Returns a function that makes a record of an example; `numbers` are the classes of the dataset's labels."""

    def decode(example: dict[str, Any]) -> Record:
        name, label = example.get("file_name", b"an image").decode(), int(example["label"])
        if label < 0:  # TFDS's number for an unknown label
            raise QtxError(f"{name} of {dataset.folder} has no label: choose a corpus whose images have labels")
        return read_pixels(example["image"], f"{name} of {dataset.folder}", channels), np.int32(numbers[label])

    return decode
