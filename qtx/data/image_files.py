"""Image folders and archives in the layout `<split>/<class>/<file>`: how they are listed and read."""

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
"""Most pixels of an image: a file of a few bytes can claim any number. Pillow warns from here on."""
DENSEST = 8256
"""Most pixels that one byte of a file can hold: those of a PNG of one bit each, compressed 1032 : 1."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
TRAINING_SPLIT = "train"
HELD_OUT_SPLITS = ("val", "valid", "validation", "test")
SPLITS = (TRAINING_SPLIT, *HELD_OUT_SPLITS)
LINK = "link in the archive"


@dataclass
class Survey:
    """A `Survey` collects what `image_files` finds: the classes that have images, and what is left out.

    Attributes:
      classes: split name to the names of the classes that have an image in the split.
      folders: (split, class) of every folder of a class.
      kinds: how many files of each kind were left out.
    """

    classes: dict[str, set[str]] = field(default_factory=dict)
    folders: set[tuple[str, str]] = field(default_factory=set)
    kinds: Counter[str] = field(default_factory=Counter)

    def place(self, name: str, link: str | None = None) -> tuple[str, str, str] | None:
        """Notes a file or a folder; returns split, class and file name of an image, None for anything else.

        Args:
          name: its path below the folder or in the archive; that of a folder ends with `/`.
          link: what a link that cannot be followed is counted as; None: it is no such link.
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
        """Says in words what was left out; empty if nothing was. A class without images in a split is named with the
        split if another split has images of the class."""
        known = set[str]().union(*self.classes.values())
        bare = {
            f"{split}/{name}" if name in known else name
            for split, name in self.folders
            if name not in self.classes.get(split, ())
        }
        lacking = f"no image in {', '.join(sorted(bare)[:10])}" if bare else ""
        return described(left_out(self.kinds), lacking)


def check_splits(path: str, survey: Survey, known: bool = False) -> tuple[list[str], str]:
    """Returns the classes in alphabetical order and the name of the held-out split.

    Args:
      path: the images' folder or archive, for errors.
      survey: the survey of all images.
      known: whether the classes are given, so that a held-out class may have no training image.

    Raises:
      QtxError: without a training or a held-out split, or if a held-out class has no training image and the classes are
        not `known`.
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
    """Yields (split, class, file name, reader) of every image: sorted in a folder, in its own order in an archive.

    The reader gives the content until the next image is asked for; what is left out is noted in `survey`.

    Raises:
      QtxError: if `path` is no folder or archive, or the archive is broken.
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
                if info.compress_size > size:  # reading it would take as much memory
                    raise QtxError(f"cannot read {path} as an archive: {info.filename} says to be larger than it")
                link = LINK if stat.S_ISLNK(info.external_attr >> 16) else None
                if not hidden(info.filename) and (place := survey.place(info.filename, link)):
                    yield *place, _telling(path)(functools.partial(archive.read, info))
    else:
        with _telling(path), tarfile.open(path, "r|*") as tar:
            for member in tar:
                name = printable(member.name) + "/" * member.isdir()
                link = None if member.isfile() or member.isdir() else LINK
                content = tar.extractfile(member) if member.isfile() else None
                if not hidden(name) and (place := survey.place(name, link)) and content:
                    yield *place, _telling(path)(content.read)


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Turns whatever the libraries raise for a damaged archive into a QtxError of one line."""
    try:
        yield
    except QtxError:
        raise
    except Exception as error:  # for a damaged file these libraries raise whatever their parts raise
        raise QtxError(f"cannot read {path} as an archive: {error or type(error).__name__}") from error


def read_pixels(content: bytes, what: str, channels: int) -> np.ndarray:
    """Returns the pixels of an image file, uint8 `[H, W, C]`; see `open_image` and `eight_bits`."""
    return eight_bits(open_image(content, what), what, channels)


def open_image(content: bytes, what: str) -> Image.Image:
    """Decodes a JPEG, PNG, WebP (the first image of several) or BMP.

    Args:
      content: the bytes of the file.
      what: the image's name in messages.

    Raises:
      QtxError: if the file is damaged, of another kind, or claims more than `MOST_PIXELS` or than its bytes can hold.
    """
    image = begin_image(content, what)
    with _telling_of_image(content, what):
        image.load()
    return image


def begin_image(content: bytes, what: str) -> Image.Image:
    """Opens an image as `open_image` does, but reads only the head; the pixels are decoded when they are asked for."""
    with _telling_of_image(content, what):
        image = Image.open(io.BytesIO(content), formats=DECODED)
    most = min(MOST_PIXELS, DENSEST * len(content))
    if image.width * image.height > most:
        raise QtxError(f"cannot decode {what}: {image.width} x {image.height} pixels, expected {most:,} or less")
    return image


@contextlib.contextmanager
def _telling_of_image(content: bytes, what: str) -> Iterator[None]:
    """Turns whatever Pillow's decoders, or their parts, raise for a broken file into a QtxError of one line."""
    try:
        yield
    except UnidentifiedImageError as error:
        kind = file_kind(content) or f"of no known kind, it begins {content[:8].hex(' ')}"
        raise QtxError(f"cannot decode {what}: the file is {kind}: {EXPECTED}") from error
    except Exception as error:
        raise QtxError(f"cannot decode {what}, {file_kind(content)}: {error or type(error).__name__}") from error
