"""The built-in image set: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels of 17 grey levels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qtx.data.dataset import Data
from qtx.data.images import ImageOptions, LabelledImages
from qtx.data.objectives import Objective
from qtx.data.splitting import held_out_names

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
        names = [f"digit {i}" for i in range(len(images))]
        chosen = held_out_names(names, HELD_OUT_FRACTION)
        held_out = np.array([name in chosen for name in names])
        training, other = (LabelledImages(images[rows], labels[rows]) for rows in (~held_out, held_out))
        return self.make_data_in_memory("digits", [str(i) for i in range(10)], training, other, objective)
