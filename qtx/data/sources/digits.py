"""The built-in image set: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels of 17 grey levels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qtx.data.dataset import Data
from qtx.data.images import ImageOptions, LabelledImages
from qtx.data.objectives import Objective
from qtx.data.splitting import split_by_name

HELD_OUT_FRACTION = 0.2


@dataclass(frozen=True)
class Digits(ImageOptions):
    """UCI optical digits as scikit-learn ships them; a fifth is held out. Without `mean` and `std` images are
    normalized by those of the training images."""

    brightest = 16

    def load(self, objective: Objective) -> Data:
        from sklearn.datasets import load_digits  # takes a second to import, which only users of digits wait for

        digits = load_digits()
        images = digits.images.astype(np.uint8)[..., None]
        labels = digits.target.astype(np.int32)
        splits = split_by_name(range(len(images)), lambda i: f"digit {i}", HELD_OUT_FRACTION, "digit", "")
        training, held_out = (LabelledImages(images[rows], labels[rows]) for rows in splits)
        return self.make_data_in_memory("digits", [str(i) for i in range(10)], training, held_out, objective)
