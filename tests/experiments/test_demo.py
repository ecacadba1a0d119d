"""`make demo`: what it names exists, and its last lines are what its runs measured."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from experiments import demo
from qtx.cli.command_table import COMMANDS
from qtx.cli.flags import check_key, load_config_file
from qtx.pipeline.importing import config_of_checkpoint, found

ROOT = Path(__file__).parents[2]
ONE_DEVICE = "--config.mesh.data=1"
SHORT = [
    *("--config.data.sequence_length=32", "--config.training.batch_size=8", "--config.training.eval_batches=1"),
    ONE_DEVICE,
]
HEALING = [
    *("--config.training.steps=4", "--config.training.warmup_steps=1", "--config.training.outliers_every=9"),
]


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
    for command, _ in (pair for step in demo.story(tmp_path) for pair in step.commands):
        name, *flags = command
        assert name in COMMANDS
        file = next((flag.partition("=")[2] for flag in flags if flag.startswith("--config=")), None)
        config = config_of_checkpoint(found("builtin:minilm-2l")) if file is None else load_config_file(file)
        for key in (match[1] for flag in flags if (match := re.match(r"--config\.([^=]+)=", flag))):
            check_key(config, key)


def measured(run: Path, scheme: str, estimator: str | None = None) -> dict[str, float]:
    """The only measurement of a run under such conditions."""
    (one,) = (
        m["values"]
        for m in json.loads((run / "results.json").read_text())["measurements"]
        if m["scheme"] == scheme and (estimator is None or m["options"]["weight_estimator"] == estimator)
    )
    return one


@pytest.mark.slow
def test_the_last_lines_are_what_the_runs_measured_and_nothing_is_done_twice(tmp_path, capsys):
    # The last one, a comparison, adds nothing to the last lines.
    steps = demo.story(tmp_path, SHORT, [*SHORT, *HEALING])[:-1]
    assert demo.tell(tmp_path, steps) == 0
    told = capsys.readouterr().out
    _, last = told.split("== before -> after")
    numbers = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) -> ([\d.]+)", last)]
    runs = tmp_path / "minilm-2l", tmp_path / "healed"
    expected = [
        tuple(measured(run, scheme, estimator)[name] for run in runs)
        for scheme, estimator, name in [
            ("fp", None, "max_inf_norm"),
            ("fp", None, "fidelity"),
            ("fp", None, "loss"),
            ("w8a8", "minmax", "fidelity"),
            ("w8a8", "minmax", "loss"),
            ("w8a8", "mse", "fidelity"),
            ("w8a8", "mse", "loss"),
        ]
    ]
    assert numbers == [pytest.approx(pair, rel=5e-3, abs=5e-4) for pair in expected]
    assert numbers[0][0] > 150  # of the model as it came

    def files():
        return {
            file: file.read_bytes() for file in (*(run / "results.json" for run in runs), runs[0] / "diagnosis.json")
        }

    before, checkpoints = files(), sorted((runs[1] / "checkpoints").rglob("*"))
    assert demo.tell(tmp_path, steps) == 0
    again = capsys.readouterr().out
    assert again.count("finished already: ") == 5 and again.split("== before -> after")[1] == last
    assert files() == before and sorted((runs[1] / "checkpoints").rglob("*")) == checkpoints
