"""A run's metrics: JSON lines and TensorBoard events.

A line is `{"step": 100, "split": "train", "loss": 5.1, ...}`; a number that is not finite is null. A resumed run drops
the lines that were logged after its checkpoint, so that the log has neither gap nor duplicate.
"""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected, parse_json, read_bytes, write_whole
from qtx.training.appending import AppendedFile
from qtx.training.events import beginning, file_name, scalar_event
from qtx.training.run_folder import RunFolder

EXPECTED = Expected("a line of metrics", "mend it, or delete the line")


class MetricWriter:
    """A `MetricWriter` appends to a run's metrics; close it, or use it in `with`.

    Args:
      folder: the run's folder.
      step: the checkpoint from which the run goes on: later lines are dropped; None: the run starts, all are dropped.
      enabled: whether this process writes; of several processes, one does.
      warn: called with a message when the disk is full; writing then waits for a while.

    Raises:
      QtxError: also by `write` and `sync`, if the disk stays full or the files cannot be written.
    """

    def __init__(
        self, folder: RunFolder, step: int | None, enabled: bool = True, warn: Callable[[str], None] = warnings.warn
    ):
        self._enabled, self._path = enabled, folder.metrics
        if not enabled:
            return
        with self._telling():
            folder.tensorboard.mkdir(parents=True, exist_ok=True)
            _truncate(folder.metrics, step)
            self._lines = AppendedFile(folder.metrics, warn)
            self._events = AppendedFile(folder.tensorboard / file_name(), warn)
            self._events.append(beginning(0 if step is None else step + 1))

    def write(self, step: int, split: str, values: Mapping[str, float], note: str | None = None) -> None:
        """Logs numbers of a split ("train", "eval", "monitor") after `step` updates; `note` becomes key "warning"."""
        if not self._enabled:
            return
        line: dict[str, Any] = {"step": step, "split": split}
        line.update({name: value if math.isfinite(value) else None for name, value in values.items()})
        if note is not None:
            line["warning"] = note
        with self._telling():
            # A line is written at once: a killed run leaves at most its last line incomplete.
            self._lines.append(f"{json.dumps(line)}\n".encode())
            events = (scalar_event(f"{split}/{name}", value, step) for name, value in values.items())
            self._events.append(b"".join(events))

    def sync(self) -> None:
        """Flushes the JSON lines to disk; called before a checkpoint, whose step the log must have reached."""
        if not self._enabled:
            return
        with self._telling():
            self._lines.sync()

    def close(self) -> None:
        """Closes the files; what was written is in them already."""
        if self._enabled:
            self._lines.close()
            self._events.close()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise QtxError(
                f"cannot log to {self._path}: {error.strerror}; the last checkpoint is intact: make room, and the same "
                "command goes on from it"
            ) from error

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(workdir: str | Path, split: str | None = None) -> list[dict[str, Any]]:
    """Returns the lines of a run's metrics.jsonl in order, of one split or all, without a killed run's incomplete one.

    Raises:
      QtxError: if the folder has no metrics, or they are damaged.
    """
    path = RunFolder(Path(workdir)).metrics
    if not path.exists():
        raise QtxError(f"{workdir} has no metrics.jsonl: expected the folder of a training run")
    return [line for line in _complete_lines(path) if split is None or line["split"] == split]


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for number, text in enumerate(read_bytes(path, EXPECTED).split(b"\n")[:-1], start=1):
        where = f"line {number} of {path}"
        line = parse_json(text, where, EXPECTED, finite=False)
        if not isinstance(line.get("step"), int) or not isinstance(line.get("split"), str):
            raise EXPECTED.refusal(where, "no step and split")
        lines.append(line)
    return lines


def _truncate(path: Path, step: int | None) -> None:
    """Drops the lines of a log beyond `step` (all for None) and an incomplete last one, atomically."""
    if not path.exists():
        return
    kept = [line for line in _complete_lines(path) if step is not None and line["step"] <= step]
    write_whole({path: "".join(json.dumps(line) + "\n" for line in kept).encode()})
