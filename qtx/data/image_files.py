"""Image folders and archives in the layout `<split>/<class>/<file>`: what is in them, and its reading."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from qtx.data.image_kinds import DECODED, EXPECTED, eight_bits, file_kind
from qtx.data.listing import BROKEN_LINK, entries, hidden, kind_of, printable
from qtx.data.notes import described, left_out
from qtx.foundation.errors import QtxError

MOST_PIXELS = 89_000_000
"""Of an image: a file of a few bytes can say to have any number. Pillow warns from here on."""
DENSEST = 8256
"""Pixels that one byte of a file can be: PNG's of one bit each, compressed 1032 : 1."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
TRAINING_SPLIT = "train"
HELD_OUT_SPLITS = ("val", "valid", "validation", "test")
SPLITS = (TRAINING_SPLIT, *HELD_OUT_SPLITS)
LINK = "link in the archive"


@dataclass
class Survey:
    """What `image_files` came by: the classes that have images, and what it left out.

    Attributes:
      classes: split name to the names of its classes with an image.
      folders: (split, class) of all folders of classes.
      kinds: how many files of each kind were left out.
    """

    classes: dict[str, set[str]] = field(default_factory=dict)
    folders: set[tuple[str, str]] = field(default_factory=set)
    kinds: Counter[str] = field(default_factory=Counter)

    def place(self, name: str, link: str | None = None) -> tuple[str, str, str] | None:
        """Notes a file or a folder, and gives an image's split, class and file name, None for what is no image.

        Args:
          name: its path below the folder or in the archive; a folder's ends with `/`.
          link: what it is called if it is a link that cannot be followed.
        """
        *above, last = PurePosixPath(name).parts or ("",)
        inside = [*above, last] if link or name.endswith("/") else above
        for split, class_name in reversed(list(itertools.pairwise(inside))):
            if split in SPLITS and class_name not in SPLITS:
                self.folders.add((split, class_name))
                break
        if name.endswith("/"):
            return None
        readable = not link and PurePosixPath(last).suffix.lower() in SUFFIXES
        if readable and len(above) > 1 and above[-2] in SPLITS:
            self.classes.setdefault(above[-2], set()).add(above[-1])
            return above[-2], above[-1], last
        self.kinds[link or kind_of(last) + " not in <split>/<class>/" * readable] += 1
        return None

    def told(self) -> str:
        """What was left out, in words; empty if nothing was. A class that has images in another split is named with its
        own."""
        known = set[str]().union(*self.classes.values())
        bare = {
            f"{split}/{name}" if name in known else name
            for split, name in self.folders
            if name not in self.classes.get(split, ())
        }
        lacking = f"no image in {', '.join(sorted(bare)[:10])}" if bare else ""
        return described(left_out(self.kinds), lacking)


def check_splits(path: str, survey: Survey, known: bool = False) -> tuple[list[str], str]:
    """The classes in alphabetical order and the name of the held-out split.

    Args:
      path: of the images, for errors.
      survey: of all of them.
      known: whether it is known which classes there are, so that one may be held out alone.

    Raises:
      QtxError: without a training or a held-out split, or when a held-out class has no training image and nobody knows
        of it.
    """
    classes = survey.classes
    held_out = next((split for split in HELD_OUT_SPLITS if split in classes), None)
    if TRAINING_SPLIT not in classes or held_out is None:
        problem = (
            f"{path}: found images in {', '.join(sorted(classes)) or 'no split'}: expected <split>/<class>/<file> "
            f"(jpg, png, webp, bmp) with split {TRAINING_SPLIT} and one of {', '.join(HELD_OUT_SPLITS)}"
        )
        raise QtxError(described(problem, survey.told()))
    unknown = sorted(classes[held_out] - classes[TRAINING_SPLIT])
    if unknown and not known:
        problem = (
            f"{path}: {held_out} has class {unknown[0]}, which {TRAINING_SPLIT} lacks: set data.classes to all "
            "classes, in the order of their numbers"
        )
        raise QtxError(described(problem, survey.told()))
    return sorted(classes[TRAINING_SPLIT] | classes[held_out]), held_out


def image_files(path: Path, survey: Survey) -> Iterator[tuple[str, str, str, Callable[[], bytes]]]:
    """(split, class, file name, content's reader) of every image of a folder, sorted, or of an archive, in its order.

    The content can be read until the next image is asked for; what is left out is noted in `survey`.

    Raises:
      QtxError: when `path` is neither, or the archive is broken.
    """
    if path.is_dir():
        for name, file in entries(path, named=2):
            link = None if name.endswith("/") or file.is_file() else BROKEN_LINK
            if place := survey.place(f"{path.name}/{printable(name)}", link):
                yield *place, file.read_bytes
    elif not path.is_file():
        raise QtxError(f"no folder or archive {path}: set data.path to one of <split>/<class>/ images")
    elif path.suffix.lower() == ".zip":
        with _telling(path), zipfile.ZipFile(path) as archive:
            size = path.stat().st_size
            for info in archive.infolist():
                if info.compress_size > size:  # as much would be taken to read it
                    raise QtxError(f"cannot read {path} as an archive: {info.filename} says to be larger than it")
                link = LINK if stat.S_ISLNK(info.external_attr >> 16) else None
                if not hidden(info.filename) and (place := survey.place(info.filename, link)):
                    yield *place, functools.partial(_read, path, functools.partial(archive.read, info))
    else:
        with _telling(path), tarfile.open(path, "r|*") as tar:
            for member in tar:
                name = printable(member.name) + "/" * member.isdir()
                link = None if member.isfile() or member.isdir() else LINK
                content = tar.extractfile(member) if member.isfile() else None
                if not hidden(name) and (place := survey.place(name, link)) and content:
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
        kind = file_kind(content) or f"of no known kind, it begins {content[:8].hex(' ')}"
        raise QtxError(f"cannot decode {what}: the file is {kind}: {EXPECTED}") from error
    except Exception as error:
        raise QtxError(f"cannot decode {what}, {file_kind(content)}: {error or type(error).__name__}") from error
