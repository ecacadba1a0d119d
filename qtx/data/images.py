"""What every image source shares: its options, the augmentation, and arrays of pixels to `Data`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qtx.data.dataset import Batch, Data
from qtx.errors import QtxError


@dataclass(frozen=True)
class LabelledImages:
    """Images uint8 [N, H, W, C] with labels int32 [N]; `[index]` is one (image, label)."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.int32]:
        return self.images[index], self.labels[index]


@dataclass(frozen=True)
class ImageOptions:
    """Options of every image source; the augmentation applies to training alone.

    Attributes:
      random_crop: pixels of zero padding on every side, from which a crop of the original size is drawn; 0 for none.
      flip: mirror every other image, left to right.
    """

    objectives: ClassVar[tuple[str, ...]] = ("classification",)

    random_crop: int = 0
    flip: bool = False

    def __post_init__(self):
        if self.random_crop < 0:
            raise QtxError(f"random_crop is {self.random_crop}: expected 0 pixels or more")

    def augment(self, record: tuple[np.ndarray, np.int32], rng: np.random.Generator) -> tuple[np.ndarray, np.int32]:
        """Crops and flips one (image [H, W, C], label)."""
        image, label = record
        if self.random_crop:
            pad = self.random_crop
            height, width, _ = image.shape
            top, left = rng.integers(0, 2 * pad + 1, size=2)
            padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
            image = padded[top : top + height, left : left + width]
        if self.flip and rng.random() < 0.5:
            image = image[:, ::-1]
        return image, label

    def make_data(self, name: str, classes: Sequence[str], training: LabelledImages, held_out: LabelledImages) -> Data:
        """Normalizes by the training images' mean and standard deviation per channel.

        Raises:
          QtxError: for images that are not square or differ in size between the splits, or a label out of range.
        """
        _, height, width, channels = training.images.shape
        if height != width or held_out.images.shape[1:] != (height, width, channels):
            raise QtxError(
                f"{name}: training images are {height} x {width} x {channels} and held-out ones "
                f"{' x '.join(map(str, held_out.images.shape[1:]))}: expected square images of one size"
            )
        highest = max(training.labels.max(), held_out.labels.max())
        if highest >= len(classes):
            raise QtxError(
                f"{name}: label {highest}, but the training labels end at {len(classes) - 1}: expected the same"
            )
        mean, deviation = channel_statistics(training.images)
        if not deviation.all():
            raise QtxError(f"{name}: a channel of the training images has one value throughout: nothing to learn from")

        def example(record: tuple[np.ndarray, np.int32], rng: np.random.Generator) -> Batch:
            image, label = record
            return {"images": (image - mean) / deviation, "labels": label, "weights": np.float32(1.0)}

        return Data(
            description=(
                f"{name}: {len(training):,} training and {len(held_out):,} held-out images, "
                f"{height} x {width} x {channels}, {len(classes)} classes"
            ),
            training=training,
            held_out=held_out,
            example=example,
            augment=self.augment if self.random_crop or self.flip else None,
            image_size=height,
            channels=channels,
            num_classes=len(classes),
        )


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel, float32 [C] each, of uint8 images [N, H, W, C].

    Exact and in little memory: from each channel's histogram of its 256 values.
    """
    values = np.arange(256)
    counts = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])])
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    variance = share @ values**2 - mean**2
    return mean.astype(np.float32), np.sqrt(np.maximum(variance, 0.0)).astype(np.float32)
