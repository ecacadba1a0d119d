"""A run's metrics: JSON lines and TensorBoard events.

A line is `{"step": 100, "split": "train", "loss": 5.1, ...}`; a number that is not finite is null. A resumed run takes
back what was logged after its checkpoint, so that the log has neither gap nor duplicate.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from qtx.errors import QtxError
from qtx.storage import Expected, parse_json, read_bytes
from qtx.training.run_folder import RunFolder

EXPECTED = Expected("a line of metrics", "mend it, or delete the line")


class MetricWriter:
    """Appends to a run's metrics; close it, or use it in `with`.

    Args:
      folder: the run's.
      step: of the checkpoint that the run continues from; lines beyond it are dropped. None: the run starts; all are.
      enabled: with several processes, one writes.

    Raises:
      QtxError: by `write`, `sync` and `close`, if the disk is full or the files cannot be written.
    """

    def __init__(self, folder: RunFolder, step: int | None, enabled: bool = True):
        self._enabled = enabled
        if not enabled:
            return
        _truncate(folder.metrics, step)
        self._lines = folder.metrics.open("a", encoding="utf-8")
        purge = 0 if step is None else step + 1
        self._events = SummaryWriter(str(folder.tensorboard), purge_step=purge, flush_secs=30)

    def write(self, step: int, split: str, values: Mapping[str, float], note: str | None = None) -> None:
        """Logs numbers of a split ("train", "eval", "monitor") after `step` updates; `note` becomes key "warning"."""
        if not self._enabled:
            return
        line: dict[str, Any] = {"step": step, "split": split}
        line.update({name: value if math.isfinite(value) else None for name, value in values.items()})
        if note is not None:
            line["warning"] = note
        with self._telling():
            # One write call per line: a killed run leaves at most its last line incomplete.
            self._lines.write(json.dumps(line) + "\n")
            self._lines.flush()
            for name, value in values.items():
                self._events.add_scalar(f"{split}/{name}", value, step)

    def sync(self) -> None:
        """Puts all that was written on disk; called before a checkpoint, whose step the log must have reached."""
        if not self._enabled:
            return
        with self._telling():
            os.fsync(self._lines.fileno())
            self._events.flush()

    def close(self) -> None:
        if self._enabled:
            with self._telling(), self._lines:
                self._events.close()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise QtxError(
                f"cannot log to {self._lines.name}: {error.strerror}; the last checkpoint is intact: make room, and "
                "the same command goes on from it"
            ) from error

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Of two errors, the first is the one to tell.
        with contextlib.suppress(QtxError) if kind else contextlib.nullcontext():
            self.close()


def read_metrics(workdir: str | Path, split: str | None = None) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl in order, of one split or all; not the incomplete last line of a killed run.

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
    temporary = path.with_suffix(".jsonl.new")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    os.replace(temporary, path)
