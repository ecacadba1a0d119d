"""`qtx quantize --target`: what is asked for, what is found, and that the run keeps it."""

from __future__ import annotations

import json

import pytest

import qtx
from qtx.cli.main import main
from qtx.foundation.errors import QtxError
from qtx.pipeline.mixed import read_target
from qtx.quantization.recipe import read_exempt

SHORT = ["--config.data.sequence_length=32", "--config.mesh.data=1", "--config.training.eval_batches=8"]
SHORT += ["--config.quantization.calibration_batches=4"]


@pytest.mark.parametrize(
    "text, floating, lower, expected",
    [
        ("0.99", 1.0, False, 0.99),
        (".9", 0.95, False, 0.9),
        ("99%", 0.8, False, 0.792),
        ("100%", 0.8, False, 0.8),
        ("25", 20.0, True, 25.0),
        ("80%", 20.0, True, 25.0),
    ],
)
def test_a_target_is_a_value_or_a_share_of_floating_point(text, floating, lower, expected):
    assert read_target(text, floating, lower) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text, floating, lower, told",
    [
        ("much", 1.0, False, "expected a value of the metric"),
        ("-1", 1.0, False, "expected a value of the metric"),
        ("0", 1.0, False, "expected a value of the metric"),
        ("0.97", 0.95, False, "floating point itself has 0.95"),
        ("19", 20.0, True, "floating point itself has 20"),
        ("101%", 0.8, False, "floating point itself has 0.8"),
    ],
)
def test_what_is_no_target_or_beyond_floating_point_is_refused(text, floating, lower, told):
    with pytest.raises(QtxError, match=told):
        read_target(text, floating, lower)


@pytest.mark.slow
def test_a_patient_reaches_a_target_with_few_tensors_left_and_keeps_them(tmp_path, capsys):
    run = f"--workdir={tmp_path / 'run'}"
    assert main(["import", "builtin:minilm-2l", run, *SHORT]) == 0
    for wrong, told in (
        (["--target=2"], "floating point itself has 1"),
        (["--target=.99", "--exempt=8"], "--exempt=8: expected float or 16"),
        (["--target=.99", "--ranges=x"], "leave --ranges out"),
        (["--exempt=16"], "give that too"),
        (["--config.quantization.exempt=('layers/mlp/ou=float',)"], "did you mean 'layers/mlp/out'"),
    ):
        assert main(["quantize", run, *wrong]) == 2
        assert told in capsys.readouterr().err
    assert main(["quantize", run, "--scheme=w8a8"]) == 0
    assert main(["quantize", run, "--scheme=w8a8", "--target=0.99"]) == 0
    told = capsys.readouterr().out
    config = json.loads((tmp_path / "run/config.json").read_text())
    exempt = config["quantization"]["exempt"]
    usual, mixed = (
        one["values"]["fidelity"]
        for one in json.loads((tmp_path / "run/results.json").read_text())["measurements"]
        if one["scheme"] == "w8a8"
    )
    assert usual < 0.97 and 0.99 <= mixed < 0.9999
    assert 0 < len(exempt) < 12 and all(one in told for one in exempt)
    assert f"{len(exempt)} of 49 tensors exempt" in told
    assert {read_exempt(one).bits for one in exempt} == {0}
    # Later commands have them too.
    assert main(["export", "--format=int8", run]) == 0
    assert f"other bits for {len(exempt)} exempt tensors" in capsys.readouterr().out
    model = qtx.load(tmp_path / "run")
    assert model.quantize().metrics["fidelity"] == pytest.approx(mixed, abs=1e-6)
    assert (
        model.quantize(target="80%").quantized.weight_ranges.keys() == model.quantize().quantized.weight_ranges.keys()
    )
    assert "of the 0.8 that was asked for" in capsys.readouterr().out
    # A target that already holds leaves nothing out, also after one that did.
    assert main(["quantize", run, "--scheme=w8a8", "--target=0.8"]) == 0
    assert "with every tensor quantized" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/config.json").read_text())["quantization"]["exempt"] == []
