"""`make demo`: what it names exists, and what it tells was measured."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from experiments import demo
from qtx.cli.command_table import COMMANDS
from qtx.cli.flags import check_key
from qtx.pipeline.importing import config_of_checkpoint, found

ROOT = Path(__file__).parents[2]


def test_what_the_makefile_runs_exists():
    text = (ROOT / "Makefile").read_text()
    commands = re.findall(r"\$\(BIN\)/qtx (\w+)", text)
    configs = re.findall(r"--config=(\S+)", text)
    modules = re.findall(r"-m (experiments[\w.]*)", text)
    assert commands and configs and "experiments.demo" in modules
    assert [name for name in commands if name not in COMMANDS] == []
    assert [name for name in configs if not (ROOT / name).is_file()] == []
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def test_the_demo_names_commands_and_keys_that_exist(tmp_path):
    config = config_of_checkpoint(found("builtin:minilm-2l"))
    for name, *flags in (step.command for step in demo.story(tmp_path)):
        assert name in COMMANDS
        for key in (match[1] for flag in flags if (match := re.match(r"--config\.([^=]+)=", flag))):
            check_key(config, key)


@pytest.mark.long
def test_the_demo_tells_what_it_measured_and_does_nothing_twice(tmp_path, capsys):
    short = ["--config.data.sequence_length=32", "--config.training.eval_batches=2", "--config.mesh.data=1"]
    steps = demo.story(tmp_path, [*short, "--config.training.batch_size=8"], [*short, "--steps=30"])
    assert demo.tell(steps) == 0
    told = capsys.readouterr().out
    runs = tmp_path / "minilm-2l-healed" / "run"
    results = [json.loads((runs / name / "results.json").read_text()) for name in ("original", "stage_1")]
    before, after = (
        next(one["values"]["fidelity"] for one in result["measurements"] if one["scheme"] == "w8a8")
        for result in results
    )
    assert f"In W8A8 its fidelity went from {before:.3f} to {after:.3f}" in told and after > before
    assert all(f"== {number} of 2: {step.title}" in told for number, step in enumerate(steps, start=1))
    assert (tmp_path / "minilm-2l-healed" / "config.json").is_file()

    def files():
        return {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}

    made = files()
    assert demo.tell(steps) == 0
    again = capsys.readouterr().out
    assert again.count("finished already: ") == 2 and files() == made


def test_the_demo_ends_with_the_first_command_that_fails(tmp_path, capsys):
    assert demo.tell(demo.story(tmp_path, ["--config.no.such=1"])) == 2
    assert "== 2 of" not in capsys.readouterr().out
