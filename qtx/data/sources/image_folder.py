"""Image folders in the layout `<split>/<class>/<file>`, as a folder or an archive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from qtx.data.dataset import Data
from qtx.data.image_files import TRAINING_SPLIT, Survey, check_splits, image_files, open_image
from qtx.data.images import ImageOptions, LabelledImages
from qtx.data.notes import described
from qtx.foundation.errors import QtxError
from qtx.foundation.paths import at_home


@dataclass(frozen=True)
class ImageFolder(ImageOptions):
    """JPEG or PNG images in `train/<class>/` and one of `val`, `valid`, `validation`, `test` (the first that exists).

    All images are decoded once to RGB in memory: N x size x size x 3 bytes. What lies above `<split>` does not matter;
    hidden files are left out, and those of other kinds too, which is told. Links are followed in folders, not in
    archives. Labels number the training classes in alphabetical order.

    Attributes:
      path: a folder, or a `.tar`, `.tar.gz`, `.tar.xz` or `.zip` archive of one.
      image_size: height and width after cropping the middle square and resizing; None wants square images of one size.
    """

    path: str = ""
    image_size: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if not self.path:
            raise QtxError("source image_folder needs path: set data.path to a folder or archive of images")
        if self.image_size is not None and self.image_size < 1:
            raise QtxError(f"image_size is {self.image_size}: expected 1 pixel or more")

    def load(self, objective: str) -> Data:
        splits: dict[str, dict[tuple[str, str], np.ndarray]] = {}
        survey = Survey()
        for split, class_name, name, read in image_files(at_home(self.path), survey):
            splits.setdefault(split, {})[class_name, name] = self._decode(read(), f"{split}/{class_name}/{name}")
        classes, held_out = check_splits(self.path, survey)
        arrays = [self._stack(splits.pop(split), classes, split) for split in (TRAINING_SPLIT, held_out)]
        told = described(f"held out: {held_out}", survey.told())
        return self.make_data(f"image_folder {self.path} ({told})", classes, *arrays)

    def _decode(self, content: bytes, name: str) -> np.ndarray:
        pixels = open_image(content, f"image {name} of {self.path}").convert("RGB")
        if self.image_size is not None:
            pixels = ImageOps.fit(pixels, (self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return np.asarray(pixels)

    def _stack(self, images: dict[tuple[str, str], np.ndarray], classes: list[str], split: str) -> LabelledImages:
        keys = sorted(images)
        shapes = {images[key].shape for key in keys}
        if len(shapes) > 1:
            raise QtxError(f"{self.path}: {split} images differ in size ({sorted(shapes)[:2]}): set data.image_size")
        labels = np.array([classes.index(class_name) for class_name, _ in keys], np.int32)
        return LabelledImages(np.stack([images[key] for key in keys]), labels)
