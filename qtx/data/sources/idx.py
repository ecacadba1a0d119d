"""Image sets in IDX files, the format of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qtx.data.dataset import Data
from qtx.data.images import ImageOptions, LabelledImages
from qtx.errors import QtxError

SPLITS = ("train", "t10k")


@dataclass(frozen=True)
class Idx(ImageOptions):
    """A folder with `train-` and `t10k-` `images-idx3-ubyte` and `labels-idx1-ubyte`, plain or `.gz`.

    Attributes:
      path: the folder.
    """

    path: str = ""

    def __post_init__(self):
        super().__post_init__()
        if not self.path:
            raise QtxError("source idx needs path: set data.path to the folder of the IDX files")

    def load(self, objective: str) -> Data:
        training, held_out = (self._split(name) for name in SPLITS)
        classes = [str(i) for i in range(training.labels.max() + 1)]
        return self.make_data(f"idx {self.path}", classes, training, held_out)

    def _split(self, name: str) -> LabelledImages:
        images = read_idx(self._file(f"{name}-images-idx3-ubyte"), dimensions=3)
        labels = read_idx(self._file(f"{name}-labels-idx1-ubyte"), dimensions=1)
        if len(images) != len(labels) or not len(images):
            raise QtxError(f"{self.path} has {len(images)} {name} images and {len(labels)} labels: expected as many")
        return LabelledImages(images[..., None], labels.astype(np.int32))

    def _file(self, name: str) -> Path:
        candidates = [Path(self.path) / name, Path(self.path) / f"{name}.gz"]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            raise QtxError(f"no file {candidates[0]} or {candidates[1].name}: set data.path to the folder that has it")
        return found


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of unsigned bytes, uint8 with `dimensions` axes.

    The header is two zero bytes, the type (8), the number of axes, then each axis's length as a big-endian int32.

    Raises:
      QtxError: for another magic number, a broken compression, or a length that is not what the header says.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise QtxError(f"cannot read {path}: {error}") from error
    magic = bytes([0, 0, 8, dimensions])
    header = 4 + 4 * dimensions
    if content[:4] != magic or len(content) < header:
        raise QtxError(
            f"{path} is not an IDX file of bytes with {dimensions} axes: "
            f"it begins {content[:4].hex()}, expected {magic.hex()}"
        )
    shape = tuple(int(n) for n in np.frombuffer(content, ">i4", count=dimensions, offset=4))
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise QtxError(
            f"{path} has {len(content):,} bytes, expected {expected:,} for its shape {shape}: is it truncated?"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
