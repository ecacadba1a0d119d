"""The metric log: valid JSON lines, and exact after an interruption."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter

from qtx.foundation.errors import QtxError
from qtx.training import RunFolder, appending, read_metrics
from qtx.training.events import tf_record
from qtx.training.writers import MetricWriter


def scalars(folder: RunFolder) -> list[tuple[int, str, float]]:
    """(step, tag, value) of every scalar in a folder's TensorBoard event files (TFRecord: length, crc, data, crc)."""
    found = []
    for path in sorted(folder.tensorboard.iterdir()):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            data = data[16 + length :]
    return found


def test_lines_and_events(tmp_path):
    folder = RunFolder(tmp_path)
    with MetricWriter(folder, None) as writer:
        writer.write(1, "train", {"loss": 2.5})
        writer.write(1, "monitor", {"share": 1.0}, "too high")
        writer.write(2, "eval", {"perplexity": float("inf"), "loss": float("nan")})
    assert read_metrics(tmp_path) == [
        {"step": 1, "split": "train", "loss": 2.5},
        {"step": 1, "split": "monitor", "share": 1.0, "warning": "too high"},
        {"step": 2, "split": "eval", "perplexity": None, "loss": None},
    ]
    assert read_metrics(tmp_path, "train") == [{"step": 1, "split": "train", "loss": 2.5}]
    assert (1, "train/loss", 2.5) in scalars(folder)
    assert (1, "monitor/share", 1.0) in scalars(folder)


@pytest.mark.parametrize(("step", "kept"), [(None, []), (0, [0]), (2, [0, 1, 2]), (9, [0, 1, 2, 3])])
def test_a_run_that_goes_on_takes_back_later_lines(tmp_path, step, kept):
    lines = [json.dumps({"step": s, "split": "train", "loss": 1.0}) for s in range(4)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "spl')
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1, 2, 3]
    with MetricWriter(RunFolder(tmp_path), step) as writer:
        writer.write(10, "train", {"loss": 0.5})
    assert [line["step"] for line in read_metrics(tmp_path)] == [*kept, 10]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own with room for 256 kB; a test of it skips where none can be made."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """A file that leaves no room."""
    file = disk / "filler"
    with file.open("wb", buffering=0) as out, contextlib.suppress(OSError):
        while out.write(b"x" * 4096):
            pass
    with file.open("ab", buffering=0) as out, contextlib.suppress(OSError):
        while out.write(b"x"):
            pass
    return file


def test_a_disk_that_is_full_for_a_moment_costs_nothing(small_disk):
    """TensorBoard's number included; half-written records are taken back before the next attempt."""
    folder, told = RunFolder(small_disk), []
    with MetricWriter(folder, None, warn=told.append) as writer:
        for step in range(200):
            if step == 20:
                filler = fill(small_disk)
                threading.Timer(0.5, filler.unlink).start()
            writer.write(step, "train", {"loss": float(step), "a_number_with_a_long_name" * 8: 1.0})
            writer.sync()
    assert [line["step"] for line in read_metrics(small_disk)] == list(range(200))
    assert [value for _, tag, value in scalars(folder) if tag == "train/loss"] == list(range(200))
    assert told and all("no room to write" in text for text in told)


def test_a_disk_that_stays_full_is_told_in_time(small_disk, monkeypatch):
    monkeypatch.setattr(appending, "PATIENCE", 0.2)
    began = time.monotonic()
    with MetricWriter(RunFolder(small_disk), None, warn=lambda text: None) as writer:
        writer.write(0, "train", {"loss": 1.0})
        fill(small_disk)
        with pytest.raises(QtxError, match="cannot log to .*: No space left on device; the last checkpoint is intact"):
            for step in range(1, 1000):
                writer.write(step, "train", {"loss": 1.0})
    assert time.monotonic() - began < 10
    lines = [line["step"] for line in read_metrics(small_disk)]
    assert lines == list(range(len(lines)))
    assert (small_disk / "metrics.jsonl").read_bytes().endswith(b"}\n")


def test_events_are_what_tensorboard_reads(tmp_path):
    """Checksums by the library's own writer, of the same event."""
    event = Event(wall_time=1.0, step=3)
    theirs = RecordWriter(str(tmp_path / "theirs"))
    theirs.write(event.SerializeToString())
    theirs.close()
    assert tf_record(event) == (tmp_path / "theirs").read_bytes()


def test_a_disabled_writer_leaves_no_trace(tmp_path):
    with MetricWriter(RunFolder(tmp_path), None, enabled=False) as writer:
        writer.write(1, "train", {"loss": 2.5})
        writer.sync()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "has no metrics.jsonl"), ('{"step": 1, "split": "train"}\nstep 2\n', "line 2 of .* is not")],
)
def test_metrics_that_cannot_be_read(tmp_path, content, message):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(QtxError, match=message):
        read_metrics(tmp_path)
