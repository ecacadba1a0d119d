"""Image sets in IDX files, the format of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qtx.data.dataset import Data
from qtx.data.images import ImageOptions, LabelledImages
from qtx.data.objectives import Objective
from qtx.foundation.errors import QtxError
from qtx.foundation.paths import at_home

SPLITS = ("train", "t10k")
DENSEST = 1032
"""Most bytes that one byte of a .gz can become."""


@dataclass(frozen=True)
class Idx(ImageOptions):
    """A folder with `train-` and `t10k-` `images-idx3-ubyte` and `labels-idx1-ubyte`, plain or `.gz`. Without `mean`
    and `std` images are normalized by those of the training images.

    Attributes:
      path: the folder.
    """

    path: str = ""

    def __post_init__(self):
        super().__post_init__()
        if not self.path:
            raise QtxError("source idx needs path: set data.path to the folder of the IDX files")

    def load(self, objective: Objective) -> Data:
        training, held_out = (self._split(name) for name in SPLITS)
        classes = [str(i) for i in range(training.labels.max() + 1)]
        return self.make_data_in_memory(f"idx {self.path}", classes, training, held_out, objective)

    def _split(self, name: str) -> LabelledImages:
        images = read_idx(self._file(f"{name}-images-idx3-ubyte"), dimensions=3)
        labels = read_idx(self._file(f"{name}-labels-idx1-ubyte"), dimensions=1)
        if len(images) != len(labels) or not len(images):
            raise QtxError(f"{self.path} has {len(images)} {name} images and {len(labels)} labels: expected as many")
        return LabelledImages(images[..., None], labels.astype(np.int32))

    def _file(self, name: str) -> Path:
        candidates = [at_home(self.path) / name, at_home(self.path) / f"{name}.gz"]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            raise QtxError(f"no file {candidates[0]} or {candidates[1].name}: set data.path to the folder that has it")
        return found


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads an IDX file of unsigned bytes: uint8 with `dimensions` axes.

    The header is two zero bytes, the type (8), the number of axes, then each axis's length as a big-endian uint32.

    Raises:
      QtxError: for another magic number, a broken compression, or a length other than the header says.
    """
    header, magic = 4 + 4 * dimensions, bytes([0, 0, 8, dimensions])
    zipped = path.suffix == ".gz"
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            content = file.read(header)
            if content[:4] != magic or len(content) < header:
                raise QtxError(
                    f"{path} is not an IDX file of bytes with {dimensions} axes: "
                    f"it begins {content[:4].hex()}, expected {magic.hex()}"
                )
            shape = tuple(int(n) for n in np.frombuffer(content, ">u4", count=dimensions, offset=4))
            size, most = math.prod(shape), path.stat().st_size * (DENSEST if zipped else 1)
            # One byte more, to see that there is none; at the end of a .gz the checksum is verified.
            content = file.read(min(size, most) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise QtxError(f"cannot read {path}: {error}") from error
    if len(content) != size:
        has = f"{header + len(content):,} bytes{' or more' if len(content) > size else ''}"
        raise QtxError(f"{path} has {has}, expected {header + size:,} for its shape {shape}: is it truncated?")
    return np.frombuffer(content, np.uint8).reshape(shape)
