"""A run's folder belongs to one config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qtx.foundation.errors import QtxError
from qtx.training import RunFolder
from qtx.training.run_folder import differences

CONFIG = {
    "name": "a",
    "seed": 0,
    "model": {"width": 64, "attention": {"alpha": None}},
    "data": {"files": ("x.txt",)},
    "training": {"steps": 10, "eval_every": 5},
    "mesh": {"data": -1},
}


def changed(path: str, value) -> dict:
    config = json.loads(json.dumps(CONFIG))
    *sections, key = path.split(".")
    section = config
    for name in sections:
        section = section[name]
    section[key] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("seed", 1, "seed (0 there, 1 here)"),
        ("model.width", 32, "model.width (64 there, 32 here)"),
        ("model.attention.alpha", 4.0, "model.attention.alpha (None there, 4.0 here)"),
        ("model.heads", 4, "model.heads (absent there, 4 here)"),
        ("training.steps", 20, "training.steps (10 there, 20 here)"),
        ("data.files", ["y.txt"], "data.files (['x.txt'] there, ['y.txt'] here)"),
        ("name", "b", None),
        ("mesh.data", 1, None),
        ("training.eval_every", 1, None),
    ],
)
def test_what_makes_another_run(path, value, expected, tmp_path):
    there = json.loads(json.dumps(CONFIG))
    assert differences(there, changed(path, value)) == ([] if expected is None else [expected])
    folder = RunFolder(tmp_path / "run")
    folder.claim(CONFIG)
    if expected is None:
        folder.claim(changed(path, value))
        assert folder.read_config() == changed(path, value)
    else:
        with pytest.raises(QtxError) as error:
            folder.claim(changed(path, value))
        assert expected in str(error.value) and "choose another --workdir" in str(error.value)
        assert folder.read_config() == there


def test_a_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(QtxError, match="cannot write the run's folder .*Not a directory"):
        RunFolder(tmp_path / "file" / "run").claim(CONFIG)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "has no config.json"), ("{", "not JSON"), ("{}", "no checksum")]
)
def test_a_folder_that_is_no_run(content, message, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(QtxError, match=message):
        RunFolder(tmp_path).read_config()


def test_runs_that_are_moved_together_find_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunFolder(Path("runs/first")).claim(CONFIG)
    RunFolder(Path("runs/second")).claim({**CONFIG, "start": "runs/first"})
    assert RunFolder(Path("runs/second")).read_config()["start"] == "runs/first"
    Path("elsewhere").mkdir()
    Path("runs").rename("elsewhere/moved")
    monkeypatch.chdir("/")
    start = RunFolder(tmp_path / "elsewhere" / "moved" / "second").read_config()["start"]
    assert start == str(tmp_path / "elsewhere" / "moved" / "first")


@pytest.mark.parametrize(
    ("there", "here", "expected"),
    [
        ("a", "a", None),
        ("a", "b", "start (SHA-256 a there, b here)"),
        (None, "b", None),  # not recorded
        ("a", None, None),  # the start is there no more
    ],
)
def test_a_start_is_known_by_its_content_wherever_it_lies(there, here, expected, tmp_path):
    def config(start, content):
        return {
            **CONFIG,
            "qat": {"scheme": ""},
            "start": start,
            "identity": {} if content is None else {"start": content},
        }

    folder = RunFolder(tmp_path / "run")
    folder.claim(config("runs/first", there))
    if expected is None:
        folder.claim(config("elsewhere/first", here))
    else:
        with pytest.raises(QtxError) as error:
            folder.claim(config("runs/first", here))
        assert expected in str(error.value)
    with pytest.raises(QtxError, match=r"start \(.*first there, absent here\)"):
        folder.claim(config("", None))
