"""The metric log: valid JSON lines, and exact after an interruption."""

from __future__ import annotations

import json

import pytest
from tensorboardX.proto.event_pb2 import Event

from qtx.errors import QtxError
from qtx.training import RunFolder, read_metrics
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
