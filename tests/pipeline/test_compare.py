"""Comparisons: which runs they have, what is not run again, and their tables."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import shutil
from pathlib import Path

import pytest
from rich.console import Console

import qtx.pipeline.compare
from qtx.cli.flags import load_config_file
from qtx.experiment import read
from qtx.foundation.errors import QtxError
from qtx.pages import results
from qtx.pipeline.compare import duration, finished_result, rebuild, run_comparison, runs

# A comparison trains six runs; `test_cli.py` has a short one.
pytestmark = pytest.mark.slow

NANO = str(Path(__file__).parents[1] / "nano_config.py")


def result(variant: str, seed: int, fp: float, **quantized: float) -> dict:
    return {
        "variant": variant,
        "seed": seed,
        "parameters": 1000,
        "metric": "perplexity",
        "fp": fp,
        "loss": 1.0,
        "max_inf_norm": 10.0 + seed,
        "avg_kurtosis": 3.0,
        "outliers": 7,
        "sink_mass": 0.5,
        "zero_share": 0.0,
        "dead_row_share": 0.0,
        "quantized": quantized,
        "seconds": 1.0,
    }


def experiment(**overrides):
    base = read(load_config_file(NANO))
    compare = dataclasses.replace(base.compare, variants=("softmax", "gated_linear,gate_pi=0.5"), seeds=(0, 1))
    return dataclasses.replace(base, compare=compare, **overrides)


def test_runs_differ_in_attention_and_seed_alone(tmp_path):
    base = experiment()
    planned = runs(base, tmp_path)
    assert [run.title for run in planned] == [
        "softmax, seed 0",
        "gated_linear,gate_pi=0.5, seed 0",
        "softmax, seed 1",
        "gated_linear,gate_pi=0.5, seed 1",
    ]
    assert planned[1].workdir == tmp_path / "runs" / "gated_linear,gate_pi=0.5-seed0"
    assert planned[1].experiment.model.attention.gate.pi == 0.5
    for run in planned:
        model = dataclasses.replace(run.experiment.model, attention=base.model.attention)
        assert dataclasses.replace(run.experiment, model=model, seed=base.seed, name=base.name) == base


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    """The folder of a finished comparison."""
    workdir = tmp_path_factory.mktemp("compared")
    run_comparison(experiment(), workdir, Console(file=io.StringIO()))
    return workdir


def test_comparison_writes_its_results(compared):
    lines = results.read_lines(compared / "results.jsonl")
    assert [(line["variant"], line["seed"]) for line in lines] == [
        ("softmax", 0),
        ("gated_linear,gate_pi=0.5", 0),
        ("softmax", 1),
        ("gated_linear,gate_pi=0.5", 1),
    ]
    for line in lines:
        assert line["quantized"].keys() == {"w8a8", "w4a4"}
        assert line["fp"] == pytest.approx(line["quantized"]["w8a8"], rel=0.01)
        folder = compared / "runs" / f"{line['variant']}-seed{line['seed']}"
        kept = json.loads((folder / "results.json").read_text())
        measured = {measurement["scheme"]: measurement for measurement in kept["measurements"]}
        assert all(kept[name] == line[name] for name in ("variant", "seed", "parameters", "metric"))
        assert measured.keys() == {"fp", "w8a8", "w4a4"}
        assert {m["checkpoint"] for m in measured.values()} == {4} and line["checkpoint"] == 4
        assert measured["w4a4"]["values"]["perplexity"] == line["quantized"]["w4a4"]
    assert lines[1]["parameters"] - lines[0]["parameters"] == 2 * (4 + 1)  # H (D + 1) in its one layer
    assert lines[0]["fp"] != lines[2]["fp"]
    assert "| softmax |" in (compared / "table.md").read_text()
    assert "</html>" in (compared / "report.html").read_text()


def test_finished_runs_are_not_run_again(compared, monkeypatch):
    def untouchable(*_):
        raise AssertionError("a finished run was run again")

    for name in ("assemble", "train_run", "quantize", "measure"):
        monkeypatch.setattr(qtx.pipeline.compare, name, untouchable)
    told = io.StringIO()
    before = (compared / "results.jsonl").read_text()
    run_comparison(experiment(), compared, Console(file=told))
    assert told.getvalue() == "4 of 4 runs are finished already\n"
    assert (compared / "results.jsonl").read_text() == before


@pytest.mark.long
def test_other_schemes_are_measured_without_training_again(compared, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(compared, workdir)
    base = experiment()
    other = dataclasses.replace(
        base,
        quantization=dataclasses.replace(base.quantization, schemes=("w8a6",)),
        compare=dataclasses.replace(base.compare, variants=("softmax",), seeds=(0,)),
    )
    (run,) = runs(other, workdir)
    assert finished_result(run) is None
    metrics = (run.workdir / "metrics.jsonl").read_bytes()
    (line,) = run_comparison(other, workdir, Console(file=io.StringIO()))
    assert line["quantized"].keys() == {"w8a6"}
    assert line["fp"] == results.read_lines(compared / "results.jsonl")[0]["fp"]
    assert (run.workdir / "metrics.jsonl").read_bytes() == metrics
    assert finished_result(run) == line


def test_rebuild(compared, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(compared, workdir)
    table = (workdir / "table.md").read_text()
    (workdir / "table.md").unlink()
    (workdir / "report.html").unlink()
    assert len(rebuild(workdir)) == 4
    assert (workdir / "table.md").read_text() == table
    assert (workdir / "report.html").is_file()
    with pytest.raises(QtxError, match="not the folder of a comparison"):
        rebuild(tmp_path)


def test_main_table_has_mean_and_deviation():
    header, rows = results.main_table(
        [result("softmax", 0, 4.0, w8a8=5.0), result("softmax", 1, 6.0), result("none", 0, 9.0)]
    )
    assert header == ["attention", "FP perplexity", "max inf. norm", "avg. kurtosis", "W8A8"]
    assert rows == [["softmax", "5.00 ± 1.4", "10.5 ± 0.71", "3.00", "5.00"], ["none", "9.00", "10.0", "3.00", ""]]


def test_a_broken_model_is_shown_as_such():
    assert results.mean_and_deviation([math.inf, 5.0]) == "inf ± nan"
    assert results.mean_and_deviation([math.nan, 5.0]) == "nan ± nan"


def test_accuracy_is_shown_in_percent():
    line = {**result("softmax", 0, 0.9, w8a8=0.875), "metric": "accuracy"}
    header, rows = results.main_table([line])
    assert header[1] == "FP accuracy, %"
    assert (rows[0][1], rows[0][-1]) == ("90.0", "87.5")


def test_attention_table():
    header, rows = results.attention_table([result("softmax", 0, 4.0), result("softmax", 1, 6.0)])
    assert dict(zip(header, rows[0], strict=True)) == {
        "attention": "softmax",
        "seeds": "2",
        "parameters": "1,000",
        "loss": "1.00",
        "6σ outliers": "7",
        "sink mass": "0.500",
        "exact zeros": "0",
        "dead rows": "0",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4.487, "4.49"),
        (21.46, "21.5"),
        (735.4, "735"),
        (19727.6, "19728"),
        (0.0123, "0.012"),
        (0, "0"),
        (156547, "156,547"),
        (1.3e7, "1.3e+07"),
        (-2.5, "-2.50"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
    ],
)
def test_number(value, text):
    assert results.number(value) == text


def test_markdown():
    assert results.markdown(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |\n"


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (89.6, "90 s"), (600, "10 min"), (12600, "3.5 h")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_names_in_tables_are_as_short_as_they_can_be():
    variants = ["softmax", "clipped_softmax,alpha=2,gamma_warmup_steps=9", "gated_mlp,gate_pi=0.1", "gated_mlp"]
    assert list(results.short_names(variants).values()) == [
        "softmax",
        "clipped_softmax",
        "gated_mlp,gate_pi=0.1",
        "gated_mlp",
    ]
    assert results.options_in_words(variants) == "clipped_softmax has alpha=2, gamma_warmup_steps=9."
    assert results.options_in_words(["softmax"]) == ""


def test_the_only_variant_keeps_its_options():
    assert results.short_names(["clipped_softmax,alpha=2"] * 2) == {
        "clipped_softmax,alpha=2": "clipped_softmax,alpha=2"
    }
    assert results.options_in_words(["clipped_softmax,alpha=2"]) == ""
