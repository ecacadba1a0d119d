"""An image folder as a TFDS dataset: the files' own bytes, with their labels."""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qtx.data.image_files import TRAINING_SPLIT, Survey, begin_image, check_splits, image_files
from qtx.data.listing import entries, printable
from qtx.data.prepared.fingerprints import content_hash
from qtx.data.prepared.writing import DatasetLayout, Example, Producer, State
from qtx.foundation.errors import QtxError
from qtx.foundation.paths import at_home

NAME = "qtx_images"
FORMAT = 2
"""Version of the records, to be raised when the same input would give other ones."""
BATCH = 64
"""Number of images read at once."""


def image_layout(path: str, data_dir: str, known: bool = False) -> DatasetLayout:
    """Plans the dataset of a folder or archive of `<split>/<class>/<file>`; `known` is for `check_splits`.

    Returns:
      a plan whose records have `image` (the file as found), `label` and `file_name`; its held-out split is
      `validation`, whatever the folder calls it.

    Raises:
      QtxError: if `path` is neither folder nor archive.
    """
    place = at_home(path)
    if place.is_dir():
        files = [(printable(name), file) for name, file in entries(place, named=2) if file.is_file()]
    elif place.is_file():
        files = [("", place)]
    else:
        raise QtxError(
            f"no folder or archive {path}: set data.corpus to one of <split>/<class>/ images, or to tfds:NAME"
        )
    found = functools.cache(lambda: _find(path, place, known))
    return DatasetLayout(
        name=NAME,
        key=hashlib.sha256(f"{FORMAT} {content_hash(files, data_dir)}".encode()).hexdigest()[:16],
        features=lambda: _features(found()[0]),
        splits={
            "train": Producer(lambda state: _images(place, TRAINING_SPLIT, state, found()[2])),
            "validation": Producer(lambda state: _images(place, found()[1], state, "")),
        },
        description=f"{printable(path)}: images in their own encoding",
        data_dir=data_dir,
    )


def _find(path: str, place: Path, known: bool) -> tuple[list[str], str, str]:
    """Returns the classes, the name of the held-out split, and what was left out, in words."""
    survey = Survey()
    for _ in image_files(place, survey):
        pass
    return *check_splits(path, survey, known), survey.told()


def _features(classes: list[str]) -> Any:
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=classes),
            "file_name": tfds.features.Text(),
        }
    )


def _images(place: Path, wanted: str, state: State | None, told: str) -> Iterator[tuple[list[Example], State]]:
    index = done = (state or {"read": 0})["read"]
    batch: list[Example] = []
    found = (image for image in image_files(place, Survey()) if image[0] == wanted)
    for index, (split, class_name, name, read) in enumerate(itertools.islice(found, done, None), done + 1):
        file_name, content = f"{split}/{class_name}/{name}", read()
        begin_image(content, f"image {file_name} of {place}")
        batch.append({"image": io.BytesIO(content), "label": class_name, "file_name": file_name})
        if len(batch) == BATCH:
            yield batch, {"read": index, "images": index}
            batch = []
    yield batch, {"read": index, "images": index, "left_out": told}
