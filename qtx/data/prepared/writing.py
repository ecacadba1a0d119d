"""Writing a TFDS dataset shard by shard: an interrupted write goes on after the last finished shard.

The shards grow in a folder `incomplete.<version>` beside the dataset's own, with a record of what is finished; at the
end the description is written and the folder renamed. So a dataset is there whole or not at all, and anyone can read it
with `tfds.builder_from_directory(folder).as_data_source()`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from qtx.data.prepared.fingerprints import keep
from qtx.data.tfds_datasets import FILE_FORMAT
from qtx.foundation.errors import QtxError
from qtx.foundation.paths import at_home
from qtx.foundation.storage import Expected, read_sealed_json, sealed_json

VERSION = "1.0.0"
SHARD_BYTES = 64 << 20
"""A shard is finished when its records have this many bytes: an interruption costs no more."""
RECORD = "preparation.json"
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"

EXPECTED = Expected("the record of a prepared dataset", "delete the dataset's folder to make it again")

State = dict[str, Any]
"""A producer's position, of JSON types; `read` counts what was read of the input, for the progress bar."""
Example = Mapping[str, Any]


@dataclass(frozen=True)
class Producer:
    """A `Producer` makes the examples of one split.

    Attributes:
      produce: from a state (None: the beginning) to pairs of examples and the state after them.
      total: how much input there is to read, None if not known.
    """

    produce: Callable[[State | None], Iterator[tuple[list[Example], State]]]
    total: int | None = None


@dataclass(frozen=True)
class DatasetLayout:
    """A dataset to write.

    Attributes:
      name: the kind of dataset, e.g. `"qtx_text"`.
      key: hash of all that the dataset is made from; the name of the config in TFDS.
      features: makes TFDS's features; called only to write.
      splits: split name to the producer of the split's examples.
      description: text for `dataset_info.json`.
      data_dir: the folder of all datasets; this one is in `data_dir/name/key/1.0.0`.
      note: what to tell of the input as it is now, whenever the dataset was written.
    """

    name: str
    key: str
    features: Callable[[], Any]
    splits: Mapping[str, Producer]
    description: str
    data_dir: str
    note: str = ""

    @property
    def folder(self) -> Path:
        """Returns the folder of the finished dataset."""
        return at_home(self.data_dir) / self.name / self.key / VERSION


@dataclass(frozen=True)
class Written:
    """A dataset that is on disk.

    Attributes:
      layout: the plan that it was written by.
      splits: split name to the last state of its producer.
      bytes: size of all files.
      seconds: time that making the dataset took in this process, None if it was there already.
    """

    layout: DatasetLayout
    splits: Mapping[str, State]
    bytes: int
    seconds: float | None

    @property
    def folder(self) -> Path:
        """Returns the dataset's folder."""
        return self.layout.folder


def write(plan: DatasetLayout, shard_bytes: int = SHARD_BYTES) -> Written:
    """Writes a dataset, or goes on with it, unless it is there already; waits while another process writes it.

    Raises:
      QtxError: if the dataset cannot be written, with only finished shards left behind; and whatever a producer raises.
    """
    folder, began = plan.folder, time.monotonic()
    if folder.is_dir():
        return _read(plan, None)
    with _one_writer(folder.parent):
        if folder.is_dir():
            return _read(plan, None)
        partial = folder.with_name(f"incomplete.{VERSION}")
        with _writing(partial):
            partial.mkdir(exist_ok=True)
        record = partial / RECORD
        splits = read_sealed_json(record, EXPECTED) if record.is_file() else {}
        features = plan.features()
        for split in plan.splits:
            progress = splits.setdefault(split, {"shards": [], "bytes": 0, "state": None, "finished": False})
            if not progress["finished"]:
                _write_split(plan, features, split, partial, splits, shard_bytes)
        with _writing(partial):
            _describe(plan, features, partial, splits)
            os.replace(partial, folder)
    return _read(plan, time.monotonic() - began)


def _write_split(
    plan: DatasetLayout,
    features: Any,
    split: str,
    folder: Path,
    record: dict,
    shard_bytes: int,
) -> None:
    producer, progress = plan.splits[split], record[split]
    batches = producer.produce(progress["state"])
    shard = _Shard(folder, plan.name, split, len(progress["shards"]))
    with _bar(f"{plan.name} {split}", producer.total) as advance, ThreadPoolExecutor(1) as ahead:

        def finish(done: bool) -> None:
            with _writing(folder):
                if shard.count:
                    shard.close()
                    progress["shards"].append(shard.count)
                    progress["bytes"] += shard.bytes
                progress["finished"] = done
                keep({folder / RECORD: sealed_json(record)})

        # The next batch is made (tokenized by as many threads as there are cores) while this one is written.
        following = ahead.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = ahead.submit(next, batches, None)
            examples, progress["state"] = batch
            with _writing(folder):
                for example in examples:
                    shard.add(features.serialize_example(example))
            advance(progress["state"]["read"])
            if shard.bytes >= shard_bytes:
                finish(done=False)
                shard = _Shard(folder, plan.name, split, len(progress["shards"]))
        finish(done=True)


class _Shard:
    """One array_record file; a half-written one is overwritten when the work goes on."""

    def __init__(self, folder: Path, name: str, split: str, index: int):
        self.path = folder / f"{name}-{split}.{FILE_FORMAT}-{index:05d}"
        self.count = self.bytes = 0
        self._writer: Any = None

    def add(self, example: bytes) -> None:
        if self._writer is None:
            from array_record.python.array_record_module import ArrayRecordWriter

            self._writer = ArrayRecordWriter(str(self.path), "group_size:1")
        self._writer.write(example)
        self.count += 1
        self.bytes += len(example)

    def close(self) -> None:
        from array_record.python.array_record_module import ArrayRecordReader

        self._writer.close()
        found = ArrayRecordReader(str(self.path)).num_records()
        if found != self.count:
            raise OSError(f"{self.path} has {found} of {self.count} records")


def _describe(plan: DatasetLayout, features: Any, folder: Path, splits: Mapping[str, Any]) -> None:
    """Writes what TFDS needs to read the shards."""
    import tensorflow_datasets as tfds

    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=progress["shards"],
            num_bytes=progress["bytes"],
            filename_template=tfds.core.ShardedFileTemplate(
                dataset_name=plan.name, data_dir=folder, split=split, filetype_suffix=FILE_FORMAT, template=TEMPLATE
            ),
        )
        for split, progress in splits.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=infos,
        filename_template=TEMPLATE,
        version=VERSION,
        description=plan.description,
        check_data=False,
    )


def _read(plan: DatasetLayout, seconds: float | None) -> Written:
    folder = plan.folder
    record = read_sealed_json(folder / RECORD, EXPECTED)
    try:
        splits = {split: progress["state"] for split, progress in record.items()}
    except (TypeError, KeyError) as error:
        raise EXPECTED.refusal(folder / RECORD, error) from None
    size = sum(file.stat().st_size for file in folder.iterdir())
    return Written(plan, splits, size, seconds)


@contextmanager
def _one_writer(folder: Path) -> Iterator[None]:
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    with lock:
        yield


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turns what goes wrong with the disk into a QtxError of one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError is array_record's
        _, _, free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists()))
        raise QtxError(
            f"cannot write {folder}: {' '.join(str(error).split())} ({free / 1e9:.1f} GB free): make room or set "
            "data.data_dir to another folder; finished shards are kept"
        ) from error


@contextmanager
def _bar(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar on stderr if that is a terminal; yields the function that moves the bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f} read"))
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(title, total=total)
        yield lambda completed: progress.update(task, completed=completed)
