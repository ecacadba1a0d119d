"""What every image source shares: its options, the augmentation, and arrays of pixels to `Data`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qtx.data.augmentation import Mixing, RandAugment, color_jitter, random_crop, random_flip, random_resized_crop
from qtx.data.classes import lacking
from qtx.data.dataset import Data
from qtx.data.objectives import Classification, Objective
from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import digest

Record = tuple[np.ndarray, np.int32]
Augment = Callable[[Record, np.random.Generator], Record]


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
    """Options of every image source: the augmentation, in the order of its use; it applies to training alone.

    Attributes:
      random_resized_crop: a rectangle of 8 to 100 % of the image, resized, bilinear or bicubic by lot.
      random_crop: pixels of zero padding on every side, from which a crop of the original size is drawn; 0 for none.
      flip: mirror every other image, left to right.
      randaugment_layers: RandAugment operations drawn per image, each then applied with probability 0.5; 0 for none.
      randaugment_magnitude: their mean magnitude, 0 to 10.
      randaugment_std: the magnitudes' standard deviation.
      color_jitter: largest relative change of brightness, contrast and saturation; 0 for none.
      mixup: alpha of Mixup's Beta distribution; 0 for none.
      cutmix: alpha of CutMix's; with both, a pair of images gets either with probability 0.5.

    Raises:
      QtxError: for an option out of its range, or both kinds of crop.
    """

    random_resized_crop: bool = False
    random_crop: int = 0
    flip: bool = False
    randaugment_layers: int = 0
    randaugment_magnitude: float = 9.0
    randaugment_std: float = 0.5
    color_jitter: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self):
        if self.random_crop < 0:
            raise QtxError(f"random_crop is {self.random_crop}: expected 0 pixels or more")
        if self.random_crop and self.random_resized_crop:
            raise QtxError("random_crop and random_resized_crop are both set: expected one of them")
        if not self.color_jitter >= 0:
            raise QtxError(f"color_jitter is {self.color_jitter}: expected 0 (none) or more, e.g. 0.4")
        _ = self._randaugment, self.mix

    @staticmethod
    def serves(objective: Objective) -> bool:
        return isinstance(objective, Classification)

    @property
    def _randaugment(self) -> RandAugment:
        return RandAugment(self.randaugment_layers, self.randaugment_magnitude, self.randaugment_std)

    @property
    def mix(self) -> Mixing | None:
        """What pairs of training examples go through, or None: `Data.mix`."""
        mixing = Mixing(self.mixup, self.cutmix)
        return mixing if self.mixup or self.cutmix else None

    def make_augment(self, size: int, mean: np.ndarray) -> Augment | None:
        """What training images go through: `Data.augment`, or None for nothing.

        Args:
          size: S, height and width of the result. With `random_resized_crop` images may have any size, otherwise they
            must have this one.
          mean: `[C]`, 0 to 255, the colour that RandAugment's warps fill with.

        Returns:
          (image uint8 `[H, W, C]`, label), generator -> (image uint8 `[S, S, C]`, label).
        """
        fill = tuple(int(value) for value in np.round(mean))
        steps: list[Callable[[np.ndarray, np.random.Generator], np.ndarray]] = []
        if self.random_resized_crop:
            steps.append(lambda image, rng: random_resized_crop(image, rng, size))
        if self.random_crop:
            steps.append(lambda image, rng: random_crop(image, rng, self.random_crop))
        if self.flip:
            steps.append(random_flip)
        if self.randaugment_layers:
            steps.append(lambda image, rng: self._randaugment(image, rng, fill))
        if self.color_jitter:
            steps.append(lambda image, rng: color_jitter(image, rng, self.color_jitter))

        def augment(record: Record, rng: np.random.Generator) -> Record:
            image, label = record
            for step in steps:
                image = step(image, rng)
            return image, label

        return augment if steps else None

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

        there = {*training.labels.tolist(), *held_out.labels.tolist()}

        def example(record: tuple[np.ndarray, np.int32], rng: np.random.Generator) -> Batch:
            image, label = record
            return {"images": (image - mean) / deviation, "labels": label, "weights": np.float32(1.0)}

        return Data(
            description=(
                f"{name}: {len(training):,} training and {len(held_out):,} held-out images, "
                f"{height} x {width} x {channels}, {len(classes)} classes{lacking(classes, there)}"
            ),
            training=training,
            held_out=held_out,
            example=example,
            augment=self.make_augment(height, mean),
            mix=self.mix,
            image_size=height,
            channels=channels,
            classes=tuple(classes),
            digests={
                name: digest({"images": split.images, "labels": split.labels})
                for name, split in (("training", training), ("held_out", held_out))
            },
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
