"""The common part of image sources: their options, the augmentation, and the making of `Data` from pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from qtx.data.augmentation import Mixing, RandAugment, color_jitter, random_crop, random_flip, random_resized_crop
from qtx.data.classes import lacking
from qtx.data.dataset import Data
from qtx.data.objectives import Classification, Objective, name_of
from qtx.data.records import Records
from qtx.data.resizing import CROP_MODES, INTERPOLATIONS, cut_to_size
from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError
from qtx.foundation.limits import Checked, at_least, one_of, within
from qtx.foundation.storage import digest

Record = tuple[np.ndarray, np.int32]
Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Statistics = tuple[np.ndarray, np.ndarray]
ALPHA = within("[0, inf)", "0 (none) or a positive number, e.g. 0.2")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
USUAL = {3: (np.array(IMAGENET["mean"]), np.array(IMAGENET["std"])), 1: (np.array((0.5,)), np.array((0.5,)))}
"""Mean and standard deviation of images that nobody measures, by their channels."""


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
class ImageOptions(Checked):
    """Options of every image source: how an image becomes a model's input, and the augmentation, which applies to
    training alone, in the order in which it is applied.

    Attributes:
      image_size: S, height and width in pixels that images are brought to; None: all have one size already.
      channels: 1 for grey, 3 for colour; None: as the source has them.
      crop_ratio: S divided by the side that an image is resized to before the middle is cut out; None is 1.
      crop_mode: a name in `CROP_MODES`; None: `"center"`, but an image of S x S stays as it is.
      interpolation: nearest, bilinear, bicubic, lanczos, box or hamming.
      mean: mean per channel, of values from 0 to 1; None: the source's.
      std: standard deviation per channel, of values from 0 to 1; None: the source's.
      random_resized_crop: crop a rectangle of 8 to 100 % of the image and resize it, bilinear or bicubic at random.
      random_crop: pixels of zero padding on every side, from which a crop of the original size is drawn; 0 for none.
      flip: mirror an image, left to right, with probability 0.5.
      randaugment_layers: RandAugment operations drawn per image, each then applied with probability 0.5; 0 for none.
      randaugment_magnitude: mean magnitude of these operations, 0 to 10.
      randaugment_std: the magnitudes' standard deviation.
      color_jitter: largest relative change of brightness, contrast and saturation; 0 for none.
      mixup: alpha of Mixup's Beta distribution; 0 for none.
      cutmix: alpha of CutMix's Beta distribution; 0 for none. With Mixup too, a pair gets either with probability 0.5.

    Raises:
      QtxError: for both kinds of crop, or a mean or standard deviation that is none.
    """

    brightest: ClassVar[int] = 255
    """The pixel value that becomes 1."""

    image_size: Annotated[int | None, at_least(1)] = None
    channels: int | None = None
    crop_ratio: Annotated[float | None, within("(0, 1]", "a number above 0 and at most 1, e.g. 0.9")] = None
    crop_mode: Annotated[str | None, one_of(CROP_MODES)] = None
    interpolation: Annotated[str, one_of(INTERPOLATIONS)] = "bicubic"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    random_resized_crop: bool = False
    random_crop: Annotated[int, at_least(0)] = 0
    flip: bool = False
    randaugment_layers: Annotated[int, at_least(0, "e.g. 2")] = 0
    randaugment_magnitude: Annotated[float, within("[0, 10]", remedy="e.g. 9")] = 9.0
    randaugment_std: Annotated[float, at_least(0, "e.g. 0.5")] = 0.5
    color_jitter: Annotated[float, at_least(0, "e.g. 0.4")] = 0.0
    mixup: Annotated[float, ALPHA] = 0.0
    cutmix: Annotated[float, ALPHA] = 0.0

    def __post_init__(self):
        super().__post_init__()
        if self.channels not in (None, 1, 3):
            raise QtxError(f"channels is {self.channels}: expected 1 (grey) or 3 (colour)")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and not (values and all(isinstance(value, int | float) for value in values)):
                raise QtxError(f"{name} is {values!r}: expected a number per channel, e.g. {IMAGENET[name]}")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise QtxError(f"std is {self.std}: expected positive numbers, e.g. {IMAGENET['std']}")
        if self.random_crop and self.random_resized_crop:
            raise QtxError("random_crop and random_resized_crop are both set: expected one of them")

    @staticmethod
    def serves(objective: Objective) -> bool:
        return isinstance(objective, Classification) or objective.taught

    @property
    def _randaugment(self) -> RandAugment:
        return RandAugment(self.randaugment_layers, self.randaugment_magnitude, self.randaugment_std)

    @property
    def mix(self) -> Mixing | None:
        """Returns what mixes pairs of training examples (`Data.mix`), or None."""
        mixing = Mixing(self.mixup, self.cutmix)
        return mixing if self.mixup or self.cutmix else None

    def to_size(self, size: int) -> Callable[[np.ndarray], np.ndarray]:
        """Returns the function that brings an image to `size` as the options say; see `cut_to_size`."""
        ratio = 1.0 if self.crop_ratio is None else self.crop_ratio
        mode, interpolation = self.crop_mode, self.interpolation
        return lambda image: cut_to_size(image, size, ratio, mode, interpolation)

    def normalization(self, channels: int, measured: Statistics | None = None) -> Statistics:
        """Returns mean and standard deviation, float32 `[C]`, of values from 0 to 1: the options', or else those that
        were measured, or else `USUAL`.

        Raises:
          QtxError: if mean or standard deviation has not one number per channel.
        """
        given = []
        for name, default in zip(("mean", "std"), measured or USUAL[channels], strict=True):
            values = default if getattr(self, name) is None else getattr(self, name)
            if len(values) != channels:
                raise QtxError(
                    f"{name} has {len(values)} numbers for images of {channels} channel(s): set data.{name} to as many"
                )
            given.append(np.array(values, np.float32))
        return given[0], given[1]

    def _pixels(self, sizes: tuple[int, int], normalization: Statistics) -> dict[str, Any]:
        """Returns `Data.pixels`, with no option left open."""
        mean, std = (tuple((self.brightest / 255 * values.astype(float)).tolist()) for values in normalization)
        return {
            "image_size": sizes[0],
            "channels": sizes[1],
            "crop_ratio": 1.0 if self.crop_ratio is None else self.crop_ratio,
            "crop_mode": self.crop_mode or "center",
            "interpolation": self.interpolation,
            "mean": self.mean if self.mean is not None and self.brightest == 255 else mean,
            "std": self.std if self.std is not None and self.brightest == 255 else std,
        }

    def make_augment(self, size: int, mean: np.ndarray) -> Augment | None:
        """Returns the augmentation of training images, or None if the options ask for none.

        Args:
          size: S, height and width of the result. With `random_resized_crop` images may have any size, otherwise they
            must have this one.
          mean: `[C]`, in pixel values, the colour that RandAugment's warps fill with.

        Returns:
          a function: (image uint8 `[H, W, C]`, generator) -> image uint8 `[S, S, C]`.
        """
        fill = tuple(int(value) for value in np.round(mean))
        steps: list[Augment] = []
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

        def augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            for step in steps:
                image = step(image, rng)
            return image

        return augment if steps else None

    def make_data(
        self,
        description: str,
        classes: Sequence[str],
        training: Records,
        held_out: Records,
        sizes: tuple[int, int],
        normalization: Statistics,
        objective: Objective,
        cut: bool = True,
        **more: Any,
    ) -> Data:
        """Makes `Data` of records, each (image uint8 `[H, W, C]`, label); leaves the labels out for an objective that
        needs none.

        Args:
          description: one line for people.
          classes: the names of the labels.
          training, held_out: the records; an image of one channel is repeated to three if C is 3.
          sizes: S and C of an example, `[S, S, C]`.
          normalization: mean and standard deviation, as `normalization` returns them.
          objective: what the examples are made for.
          cut: whether the images have yet to be brought to S; otherwise they have that size.
          more: further fields of `Data`.

        Raises:
          QtxError: if the options mix labels and the objective has none.
        """
        (size, channels), (mean, std) = sizes, normalization
        if objective.taught and self.mix is not None:
            raise QtxError(
                f"mixup and cutmix mix labels, and objective {name_of(objective)!r} has none: leave out data.mixup and "
                "data.cutmix"
            )
        to_size, augment = self.to_size(size), self.make_augment(size, self.brightest * mean)

        def example_by(*steps: Augment) -> Callable[[Record, np.random.Generator], Batch]:
            def example(record: Record, rng: np.random.Generator) -> Batch:
                image, label = record
                if image.shape[-1] != channels:
                    image = image.repeat(channels, axis=-1)
                for step in steps:
                    image = step(image, rng)
                pixels = (image.astype(np.float32) / self.brightest - mean) / std
                made = {"images": pixels, "weights": np.float32(1.0)}
                return made if objective.taught else {**made, "labels": label}

            return example

        seen: list[Augment] = [lambda image, rng: to_size(image)] if cut else []
        return Data(
            description=description,
            training=training,
            held_out=held_out,
            example=example_by(*seen),
            augment=example_by(*([] if self.random_resized_crop else seen), augment) if augment else None,
            mix=self.mix,
            image_size=size,
            channels=channels,
            pixels=self._pixels(sizes, normalization),
            classes=None if objective.taught else tuple(classes),
            **more,
        )

    def make_data_in_memory(
        self,
        name: str,
        classes: Sequence[str],
        training: LabelledImages,
        held_out: LabelledImages,
        objective: Objective,
        cut: bool = True,
    ) -> Data:
        """Makes `Data` of images in memory, normalized by the training images' mean and standard deviation per channel
        unless the options give others; the arguments are those of `make_data`.

        Raises:
          QtxError: without `image_size`, if images are not square or differ in size between the splits; for a label out
            of range; without `std`, for a channel that has one value throughout.
        """
        _, height, width, found = training.images.shape
        if self.image_size is None and (height != width or held_out.images.shape[1:] != (height, width, found)):
            raise QtxError(
                f"{name}: training images are {height} x {width} x {found} and held-out ones "
                f"{' x '.join(map(str, held_out.images.shape[1:]))}: expected square images of one size, or "
                "data.image_size"
            )
        highest = max(training.labels.max(), held_out.labels.max())
        if highest >= len(classes):
            raise QtxError(
                f"{name}: label {highest}, but the training labels end at {len(classes) - 1}: expected the same"
            )
        size, channels = self.image_size or height, self.channels or found
        mean, deviation = (values / self.brightest for values in channel_statistics(training.images))
        if self.std is None and not deviation.all():
            raise QtxError(f"{name}: a channel of the training images has one value throughout: nothing to learn from")
        if found == 1 < channels:
            mean, deviation = np.repeat(mean, channels), np.repeat(deviation, channels)
        there = {*training.labels.tolist(), *held_out.labels.tolist()}
        return self.make_data(
            f"{name}: {len(training):,} training and {len(held_out):,} held-out images, "
            f"{size} x {size} x {channels}, {len(classes)} classes{lacking(classes, there)}",
            classes,
            training,
            held_out,
            (size, channels),
            self.normalization(channels, (mean, deviation)),
            objective,
            cut,
            digests={
                split: digest({"images": images.images, "labels": images.labels})
                for split, images in (("training", training), ("held_out", held_out))
            },
        )


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes mean and standard deviation per channel, float32 [C] each, of uint8 images [N, H, W, C].

    The result is exact and takes little memory: it comes from each channel's histogram of its 256 values.
    """
    values = np.arange(256)
    counts = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])])
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    variance = share @ values**2 - mean**2
    return mean.astype(np.float32), np.sqrt(np.maximum(variance, 0.0)).astype(np.float32)
