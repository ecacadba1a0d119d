"""TFDS datasets that lie on disk as array_record: found by name and read without TensorFlow."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from qtx.foundation.errors import QtxError
from qtx.foundation.paths import at_home
from qtx.foundation.storage import Expected, inside, read_json

FILE_FORMAT = "array_record"
PREFIX = "tfds:"
DEFAULT_DATA_DIR = "~/tensorflow_datasets"
TRAINING_SPLIT = "train"
HELD_OUT_SPLITS = ("validation", "test")
FEATURES = "tensorflow_datasets.core.features."
"""Module of TFDS's own features."""
TEMPLATE = re.compile(r"([\w./-]|\{(DATASET|SPLIT|FILEFORMAT|SHARD_INDEX|NUM_SHARDS|SHARD_X_OF_Y)\})*")
"""Shard names that are accepted: text and fields without a format, which Python would follow to any width."""
EXPECTED = Expected("a dataset of TFDS's", "delete the folder to make it again")
VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset in a folder.

    Attributes:
      name: TFDS's full name, e.g. `"wiki40b/en/1.3.0"`.
      folder: the folder of `dataset_info.json` and the shards.
    """

    name: str
    folder: Path
    _builder: Any = field(repr=False)

    @property
    def features(self) -> Mapping[str, Any]:
        """Returns the TFDS features by name."""
        return dict(sorted(self._builder.info.features.items()))

    @property
    def held_out_split(self) -> str | None:
        """Returns the name of TFDS's own held-out split: `"validation"`, else `"test"`, else None."""
        return next((split for split in HELD_OUT_SPLITS if split in self._builder.info.splits), None)

    def fingerprint(self, split: str) -> str:
        """Returns a hash that changes with the dataset, its version, or the shards of a split."""
        info = self._split(split)
        facts = (self.name, split, info.num_bytes, *info.shard_lengths, *map(repr, self.features.items()))
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def records(self, split: str, read: Callable[[dict[str, Any]], Any]) -> DatasetRecords:
        """Returns the records of a split on disk, read at random access.

        Args:
          split: the split's name.
          read: makes a record of TFDS's example, whose images are left encoded.

        Raises:
          QtxError: for a split that is not there, or one of whose shards is missing.
        """
        import tensorflow_datasets as tfds

        template = self._split(split).filename_template.template
        if not TEMPLATE.fullmatch(template):
            raise EXPECTED.refusal(self.folder, f"its files are named by {template!r}")
        for file in map(Path, self._split(split).filepaths):
            inside(self.folder, os.path.relpath(file, self.folder), EXPECTED)
            if not os.path.isfile(file):  # isfile is also false for a name that is too long
                raise QtxError(f"dataset {self.folder} is damaged: no {file}; delete the folder to make it again")
        images = (name for name, feature in self.features.items() if isinstance(feature, tfds.features.Image))
        source = self._builder.as_data_source(split, decoders={name: tfds.decode.SkipDecoding() for name in images})
        return DatasetRecords(self.folder, source, read)

    def _split(self, split: str) -> Any:
        splits = self._builder.info.splits
        if split not in splits or not splits[split].num_examples:
            raise QtxError(f"dataset {self.folder} has no split {split}: found {', '.join(splits) or 'none'}")
        return splits[split]


@dataclass(frozen=True)
class DatasetRecords:
    """The records of one split; only what is asked for is read."""

    folder: Path
    source: Any = field(repr=False)
    read: Callable[[dict[str, Any]], Any] = field(repr=False)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        try:
            example = self.source[index]
        except (RuntimeError, ValueError) as error:  # what array_record raises for a shard that it cannot read
            raise QtxError(f"cannot read {self.folder}: {error}; delete the folder and make it again") from error
        return self.read(example)


def find_dataset(name: str, data_dir: str) -> Dataset:
    """Finds a dataset of TFDS's by its name.

    Args:
      name: TFDS's name, with config and version if need be: `"cifar10"`, `"wiki40b/en"`, `"lm1b:1.1.0"`. Without a
        version, the newest version that is there is found.
      data_dir: the folder in which TFDS prepared the dataset.

    Raises:
      QtxError: if the dataset is not there, or not stored as array_record.
    """
    base, _, version = name.partition(":")
    root = at_home(data_dir)
    folder = root / base
    found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    versions = [n for n in found if VERSION.fullmatch(n) and (folder / n / "dataset_info.json").is_file()]
    matching = [n for n in versions if version in ("", n)]
    if not matching:
        there = f" (in {folder}: {', '.join(found)})" if found else ""
        raise QtxError(
            f"no TFDS dataset {name} in data_dir {root}{there}: make it on a machine with TensorFlow and internet, "
            f"`tfds build {quote(base)} --data_dir={quote(data_dir)} --file_format={FILE_FORMAT}`, or set data.data_dir"
        )
    return open_dataset(folder / max(matching, key=lambda n: tuple(map(int, n.split(".")))))


def open_dataset(folder: Path) -> Dataset:
    """Opens the dataset in a folder.

    Raises:
      QtxError: if the dataset's description cannot be read, or the dataset is not stored as array_record.
    """
    import tensorflow_datasets as tfds

    _check_features(folder)
    try:
        builder = tfds.builder_from_directory(folder)
        stored = builder.info.file_format
    except Exception as error:  # JSON, protobuf and TFDS each raise their own
        raise QtxError(f"cannot read TFDS dataset {folder}: {' '.join(str(error).split())[:200]}") from error
    if stored is None or stored.value != FILE_FORMAT:
        raise QtxError(
            f"TFDS dataset {folder} is stored as {stored and stored.value}, which needs TensorFlow to read: where that "
            f"is installed, `tfds convert_format --dataset_version_dir={quote(str(folder))} "
            f"--out_file_format={FILE_FORMAT} --out_dir=FOLDER`, and put FOLDER in its place"
        )
    return Dataset(builder.info.full_name, folder, builder)


def _check_features(folder: Path) -> None:
    """Refuses a dataset whose description names classes that are not TFDS's: reading it imports their modules."""
    file = folder / "features.json"
    left: list[Any] = [read_json(file, EXPECTED)] if file.is_file() else []
    while left:
        value = left.pop()
        left += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        for key in ("pythonClassName", "python_class_name", "type") if isinstance(value, dict) else ():
            name = value.get(key)
            if isinstance(name, str) and not name.startswith(FEATURES):
                raise EXPECTED.refusal(file, f"it has a feature {name!r}, which is not one of TFDS's own")
