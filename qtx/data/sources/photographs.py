"""The built-in images without labels: crops of the two photographs that scikit-learn ships."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from qtx.data.dataset import Data
from qtx.data.image_files import read_pixels
from qtx.data.images import ImageOptions, Record
from qtx.data.objectives import Objective
from qtx.data.sources.image_corpus import READING_THREADS
from qtx.foundation.storage import digest

TRAINING, HELD_OUT = ("china.jpg", 4096), ("flower.jpg", 256)
"""The photograph of a split, and the number of crops of it."""
SMALLEST_SIDE = 0.3
SIZE = 224


@dataclass(frozen=True)
class Photographs(ImageOptions):
    """Squares cut at random places and scales, half of them mirrored: from a photograph of a temple for training and
    calibration, and from one of a flower for evaluation.

    The squares stand for no data set: a model is compared with itself on them, before and after a change.

    Attributes:
      image_size: height and width in pixels; None is 224.
      mean: mean per channel, of values from 0 to 1; None is ImageNet's for colour, 0.5 for grey.
      std: standard deviation per channel, of values from 0 to 1; None as for `mean`.
    """

    @staticmethod
    def serves(objective: Objective) -> bool:
        return objective.taught

    def load(self, objective: Objective) -> Data:
        size, channels = self.image_size or SIZE, self.channels or 3
        mean, std = self.normalization(channels)
        training, held_out = (Crops(name, count, channels) for name, count in (TRAINING, HELD_OUT))
        return self.make_data(
            f"{len(training):,} training and {len(held_out):,} held-out crops at {size} x {size} x {channels} of two "
            "photographs, of a temple and of a flower: no data set, only something to compare the model with itself on",
            (),
            training,
            held_out,
            (size, channels),
            (mean, std),
            objective,
            digests={
                name: digest({"file": crops.content, "mean": mean, "std": std}, {"crops": len(crops)})
                for name, crops in (("training", training), ("held_out", held_out))
            },
            reading_threads=READING_THREADS,
        )


@dataclass(frozen=True)
class Crops:
    """Squares of a photograph, uint8 `[side, side, C]` each, cut out when they are asked for; the label is 0.

    Attributes:
      name: name of the photograph's file.
      count: number of squares.
      channels: C, 1 or 3.
    """

    name: str
    count: int
    channels: int

    @property
    def content(self) -> np.ndarray:
        """Returns the bytes of the photograph's file, uint8."""
        return np.frombuffer(files("sklearn.datasets.images").joinpath(self.name).read_bytes(), np.uint8)

    @functools.cached_property
    def photograph(self) -> np.ndarray:
        """Returns the whole photograph, uint8 `[H, W, C]`."""
        return read_pixels(self.content.tobytes(), self.name, self.channels)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        rng = np.random.default_rng(index)
        height, width, _ = self.photograph.shape
        side = round(min(height, width) * rng.uniform(SMALLEST_SIDE, 1.0))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        square = self.photograph[top : top + side, left : left + side]
        return (square[:, ::-1] if rng.random() < 0.5 else square), np.int32(0)
