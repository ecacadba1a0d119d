"""Image folders in the layout `<split>/<class>/<file>`, as a folder or an archive."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qtx.data.classes import Numbering, check_classes, in_order
from qtx.data.dataset import Data
from qtx.data.image_files import TRAINING_SPLIT, Survey, check_splits, image_files, read_pixels
from qtx.data.images import ImageOptions, LabelledImages
from qtx.data.notes import described
from qtx.data.objectives import Objective
from qtx.data.records import Shuffled
from qtx.foundation.errors import QtxError
from qtx.foundation.paths import at_home


@dataclass(frozen=True)
class ImageFolder(ImageOptions):
    """JPEG, PNG, WebP or BMP images in `train/<class>/` and one of `val`, `valid`, `validation`, `test` (the first that
    exists).

    All images are decoded once in memory: N x size x size x 3 bytes, or 1 of grey. What lies above `<split>` does not
    matter. Hidden files are left out, as are files of other kinds, which are counted. Links are followed in folders,
    not in archives. Without `mean` and `std` images are normalized by those of the training images.

    Attributes:
      path: a folder, or a `.tar`, `.tar.gz`, `.tar.xz` or `.zip` archive of one.
      classes: the names of the classes in the order of their numbers; None: those of `train`, sorted, as numbers if all
        are.
    """

    path: str = ""
    classes: tuple[str, ...] | None = None

    def __post_init__(self):
        super().__post_init__()
        if not self.path:
            raise QtxError("source image_folder needs path: set data.path to a folder or archive of images")
        check_classes(self.classes)

    def load(self, objective: Objective) -> Data:
        splits: dict[str, dict[tuple[str, str], np.ndarray]] = {}
        survey = Survey()
        for split, class_name, name, read in image_files(at_home(self.path), survey):
            splits.setdefault(split, {})[class_name, name] = self._decode(read(), f"{split}/{class_name}/{name}")
        names, held_out = check_splits(self.path, survey, known=self.classes is not None)
        numbering = Numbering(in_order(names) if self.classes is None else self.classes)
        training, other = (self._stack(splits.pop(split), numbering, split) for split in (TRAINING_SPLIT, held_out))
        name = f"image_folder {self.path} ({described(f'held out: {held_out}', survey.told())})"
        data = self.make_data_in_memory(name, numbering.classes, training, other, objective, cut=False)
        return replace(data, held_out=Shuffled(other))

    def _decode(self, content: bytes, name: str) -> np.ndarray:
        pixels = read_pixels(content, f"image {name} of {self.path}", self.channels or 3)
        return pixels if self.image_size is None else self.to_size(self.image_size)(pixels)

    def _stack(self, images: dict[tuple[str, str], np.ndarray], numbering: Numbering, split: str) -> LabelledImages:
        keys = sorted(images)
        shapes = {images[key].shape for key in keys}
        if len(shapes) > 1:
            raise QtxError(f"{self.path}: {split} images differ in size ({sorted(shapes)[:2]}): set data.image_size")
        labels = np.array([numbering.number(name, f"{self.path}, {split}/{name}") for name, _ in keys], np.int32)
        return LabelledImages(np.stack([images[key] for key in keys]), labels)
