"""The measurement of healed encoders: texts of all lengths, held against the original."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments import healing, healing_figures
from qtx.builtin import builtin_checkpoint
from qtx.cli.main import main as qtx_main
from qtx.pipeline import measurements
from qtx.training import RunFolder


def test_neighbours_that_are_kept(monkeypatch):
    monkeypatch.setattr(healing, "NEAREST", 1)
    angles = np.radians([0, 10, 90, 97, 200])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = healing.nearest(vectors)
    np.testing.assert_array_equal(found[:, 0], [1, 0, 3, 2, 3])
    assert healing.kept(vectors, found) == 1.0
    moved = vectors.copy()
    moved[3] = [1, 0]  # beside the first two: of the five the second alone keeps its neighbour
    assert healing.kept(moved, found) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--neighbours"], "give --reviews=FILE"), ([], "no-run is not a run's folder")],
)
def test_bad_input_is_told_in_a_line(arguments, says, capsys):
    assert healing.main(["no-run", "--calibration=a", "--text=b", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("healing: error: ") and says in told and told.count("\n") == 1


OPTIONS = {
    **{"recipe": "paper_bert", "weight_granularity": "tensor", "activation_estimator": "running_minmax"},
    **{"activation_granularity": "tensor", "calibration_batches": 16},
}


def test_the_ladder_has_the_newest_of_each_scheme_most_bits_first(tmp_path):
    measured = [
        *(("w6a6", "static", "mse", 0.5), ("w8a8", "static", "mse", 0.7), ("w8a8", "hadamard", "mse", 0.99)),
        *(("w8a8", "static", "mse", 0.8), ("w8a8", "static", "minmax", 0.1), ("w5a5", "static", "minmax", 0.1)),
    ]
    common = {"checkpoint": 1, "held_out_batches": {"used": 1}}
    lines = [
        {
            **{"scheme": scheme, "method": method, "values": {"fidelity": x}, "asked": number, **common},
            "options": {**OPTIONS, "weight_estimator": estimator},
        }
        for number, (scheme, method, estimator, x) in enumerate(measured)
    ]
    lines.insert(1, {"scheme": "fp", "values": {"fidelity": 1.0}, **common})  # it has no method
    measurements.add(RunFolder(tmp_path), {}, lines)
    found = healing_figures.ladder(tmp_path)
    assert list(found.items()) == [("FP", [1.0]), ("W8A8", [0.8]), ("W6A6", [0.5])]


def test_figures_of_what_was_not_measured_are_refused_in_a_line(tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert healing_figures.main([str(tmp_path / "one"), str(tmp_path / "two"), f"--out={tmp_path}/out"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("healing_figures: error: ") and told.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_model_is_itself_and_its_integers_are_not(tmp_path, capsys, monkeypatch):
    for name, value in {"LENGTHS": (32,), "TOKENS": 128, "LONG_TEXTS": 8, "REVIEWS": 16, "REVIEW_LENGTH": 32}.items():
        monkeypatch.setattr(healing, name, value)
    monkeypatch.setattr(healing, "CALIBRATION_TEXTS", {32: 8})
    text = str(builtin_checkpoint("minilm-2l") / "LICENSE")
    small = ["--config.data.sequence_length=32", "--config.training.batch_size=8", "--config.mesh.data=1"]
    assert qtx_main(["import", "builtin:minilm-2l", f"--workdir={tmp_path}/run", *small]) == 0
    capsys.readouterr()
    files = [f"--calibration={text}", f"--text={text}", f"--reviews={text}", "--neighbours"]
    assert healing.main([f"{tmp_path}/run", *files]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    measured = {(line["how"], line["text"], line["length"]): line for line in found if "length" in line}
    assert len(measured) == 3 * 2
    for (how, _, _), line in measured.items():
        if how == "fp":
            assert line["cosine"] == pytest.approx(1, abs=1e-5) and line["error"] < 1e-9
            assert 180 < line["output"] < 200  # as `tests/test_builtin.py` finds without qtx's analysis
        else:
            assert line["error"] > 0.01
    for kind in ("text", "reviews"):
        assert measured["w8a8", kind, 32]["error"] > measured["w8a8, mse weights", kind, 32]["error"]
    assert qtx_main(["quantize", f"--workdir={tmp_path}/run", "--scheme=w8a8"]) == 0
    assert healing_figures.main([f"{tmp_path}/run", f"{tmp_path}/run", f"--out={tmp_path}/figures"]) == 0
    assert len(list((tmp_path / "figures").glob("*.png"))) == 4
    shares = {line["how"]: line["neighbours"] for line in found if "neighbours" in line}
    assert shares["fp"] == 1.0 and 0.5 < shares["w8a8, mse weights"] <= 1.0
