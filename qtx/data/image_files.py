"""Image folders and archives in the layout `<split>/<class>/<file>`: what is in them, and its reading."""

from __future__ import annotations

import contextlib
import functools
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from qtx.data.image_kinds import DECODED, EXPECTED, eight_bits, kind_of
from qtx.foundation.errors import QtxError

MOST_PIXELS = 89_000_000
"""Of an image: a file of a few bytes can say to have any number. Pillow warns from here on."""
DENSEST = 8256
"""Pixels that one byte of a file can be: PNG's of one bit each, compressed 1032 : 1."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
TRAINING_SPLIT = "train"
HELD_OUT_SPLITS = ("val", "valid", "validation", "test")


def check_splits(path: str, classes: Mapping[str, set[str]]) -> tuple[list[str], str]:
    """The training classes in alphabetical order and the name of the held-out split.

    Args:
      path: of the images, for errors.
      classes: split name to the names of its classes.

    Raises:
      QtxError: without a training or a held-out split, or when a held-out class has no training image.
    """
    held_out = next((split for split in HELD_OUT_SPLITS if split in classes), None)
    if TRAINING_SPLIT not in classes or held_out is None:
        raise QtxError(
            f"{path}: found images in {', '.join(sorted(classes)) or 'no split'}: expected "
            f"<split>/<class>/<file> (jpg, png, webp, bmp) with split {TRAINING_SPLIT} and one of "
            f"{', '.join(HELD_OUT_SPLITS)}"
        )
    unknown = sorted(classes[held_out] - classes[TRAINING_SPLIT])
    if unknown:
        raise QtxError(f"{path}: {held_out} has class {unknown[0]}, which {TRAINING_SPLIT} lacks")
    return sorted(classes[TRAINING_SPLIT]), held_out


def image_files(path: Path) -> Iterator[tuple[str, str, str, Callable[[], bytes]]]:
    """(split, class, file name, content's reader) of every image of a folder, sorted, or of an archive, in its order.

    The content can be read until the next image is asked for.

    Raises:
      QtxError: when `path` is neither, or the archive is broken.
    """
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            place = _place(file.relative_to(path.parent).as_posix())
            if place and file.is_file():
                yield *place, file.read_bytes
    elif not path.is_file():
        raise QtxError(f"no folder or archive {path}: set data.path to one of <split>/<class>/ images")
    elif path.suffix == ".zip":
        with _telling(path), zipfile.ZipFile(path) as archive:
            size = path.stat().st_size
            for info in archive.infolist():
                if info.compress_size > size:  # as much would be taken to read it
                    raise QtxError(f"cannot read {path} as an archive: {info.filename} says to be larger than it")
                if place := _place(info.filename):
                    yield *place, functools.partial(_read, path, functools.partial(archive.read, info))
    else:
        with _telling(path), tarfile.open(path, "r|*") as tar:
            for member in tar:
                place = _place(member.name)
                content = tar.extractfile(member) if place else None
                if place and content:
                    yield *place, functools.partial(_read, path, content.read)


def _read(path: Path, read: Callable[[], bytes]) -> bytes:
    with _telling(path):
        return read()


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Tells in one line what the libraries raise for a damaged archive, of whatever kind."""
    try:
        yield
    except QtxError:
        raise
    except Exception as error:  # what these libraries raise for a damaged file is what their parts raise
        raise QtxError(f"cannot read {path} as an archive: {error or type(error).__name__}") from error


def read_pixels(content: bytes, what: str, channels: int) -> np.ndarray:
    """The pixels of an image file, uint8 `[H, W, C]`; see `open_image` and `eight_bits`."""
    return eight_bits(open_image(content, what), what, channels)


def open_image(content: bytes, what: str) -> Image.Image:
    """A JPEG, PNG, WebP (of several images the first) or BMP, decoded.

    Args:
      content: the file.
      what: to call it in messages.

    Raises:
      QtxError: if it is damaged, of another kind, or of more than `MOST_PIXELS`.
    """
    image = begin_image(content, what)
    with _telling_of_image(content, what):
        image.load()
    return image


def begin_image(content: bytes, what: str) -> Image.Image:
    """As `open_image`, but only the head is read; the pixels are decoded when they are asked for."""
    with _telling_of_image(content, what):
        image = Image.open(io.BytesIO(content), formats=DECODED)
    most = min(MOST_PIXELS, DENSEST * len(content))
    if image.width * image.height > most:
        raise QtxError(f"cannot decode {what}: {image.width} x {image.height} pixels, expected {most:,} or less")
    return image


@contextlib.contextmanager
def _telling_of_image(content: bytes, what: str) -> Iterator[None]:
    """Tells in one line what Pillow's decoders raise for a file that they cannot read: what their parts raise."""
    try:
        yield
    except UnidentifiedImageError as error:
        kind = kind_of(content) or f"of no known kind, it begins {content[:8].hex(' ')}"
        raise QtxError(f"cannot decode {what}: the file is {kind}: {EXPECTED}") from error
    except Exception as error:
        raise QtxError(f"cannot decode {what}, {kind_of(content)}: {error or type(error).__name__}") from error


def _place(name: str) -> tuple[str, str, str] | None:
    """(split, class, file name) from a path that ends so, None for any other."""
    parts = PurePosixPath(name).parts
    if len(parts) < 3 or PurePosixPath(name).suffix.lower() not in SUFFIXES:
        return None
    return (parts[-3], parts[-2], parts[-1]) if parts[-3] in (TRAINING_SPLIT, *HELD_OUT_SPLITS) else None
