"""Image folders in the layout `<split>/<class>/<file>`, as a folder or an archive."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from qtx.data.dataset import Data
from qtx.data.images import ImageOptions, LabelledImages
from qtx.errors import QtxError

SUFFIXES = {".jpg", ".jpeg", ".png"}
TRAINING_SPLIT = "train"
HELD_OUT_SPLITS = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class ImageFolder(ImageOptions):
    """JPEG or PNG images in `train/<class>/` and one of `val`, `valid`, `validation`, `test` (the first that exists).

    All images are decoded once to RGB in memory: N x size x size x 3 bytes. What lies above `<split>` and files of
    other kinds are ignored. Labels number the training classes in alphabetical order.

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
        for split, class_name, name, content in image_files(Path(self.path)):
            splits.setdefault(split, {})[class_name, name] = self._decode(content, f"{split}/{class_name}/{name}")
        held_out = next((split for split in HELD_OUT_SPLITS if split in splits), None)
        if TRAINING_SPLIT not in splits or held_out is None:
            raise QtxError(
                f"{self.path}: found images in {', '.join(sorted(splits)) or 'no split'}: expected "
                f"<split>/<class>/<file> (jpg, png) with split {TRAINING_SPLIT} and one of {', '.join(HELD_OUT_SPLITS)}"
            )
        classes = sorted({class_name for class_name, _ in splits[TRAINING_SPLIT]})
        unknown = sorted({class_name for class_name, _ in splits[held_out]} - set(classes))
        if unknown:
            raise QtxError(f"{self.path}: {held_out} has class {unknown[0]}, which {TRAINING_SPLIT} lacks")
        arrays = [self._stack(splits.pop(split), classes, split) for split in (TRAINING_SPLIT, held_out)]
        return self.make_data(f"image_folder {self.path} (held out: {held_out})", classes, *arrays)

    def _decode(self, content: bytes, name: str) -> np.ndarray:
        try:
            with Image.open(io.BytesIO(content)) as image:
                pixels = image.convert("RGB")
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise QtxError(f"cannot decode image {name} of {self.path}: {error}") from error
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


def image_files(path: Path) -> Iterator[tuple[str, str, str, bytes]]:
    """(split, class, file name, content) of every image of a folder or archive, in no particular order.

    Raises:
      QtxError: when `path` is neither, or the archive is broken.
    """
    if path.is_dir():
        for file in path.rglob("*"):
            place = _place(file.relative_to(path.parent).as_posix())
            if place and file.is_file():
                yield *place, file.read_bytes()
    elif not path.is_file():
        raise QtxError(f"no folder or archive {path}: set data.path to one of <split>/<class>/ images")
    elif path.suffix == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if place := _place(name):
                        yield *place, archive.read(name)
        except zipfile.BadZipFile as error:
            raise QtxError(f"cannot read {path}: {error}") from error
    else:
        try:
            with tarfile.open(path, "r|*") as archive:
                for member in archive:
                    place = _place(member.name)
                    content = archive.extractfile(member) if place else None
                    if place and content:
                        yield *place, content.read()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise QtxError(f"cannot read {path} as a tar archive: {error}") from error


def _place(name: str) -> tuple[str, str, str] | None:
    """(split, class, file name) from a path that ends so, None for any other."""
    parts = PurePosixPath(name).parts
    if len(parts) < 3 or PurePosixPath(name).suffix.lower() not in SUFFIXES:
        return None
    return (parts[-3], parts[-2], parts[-1]) if parts[-3] in (TRAINING_SPLIT, *HELD_OUT_SPLITS) else None
