"""Diagnosing a checkpoint by the command line, on a model that is really ill."""

from __future__ import annotations

import json

import pytest

from qtx.cli.main import main

FEW = [
    *("--config.data.sequence_length=32", "--config.training.batch_size=8", "--config.training.eval_batches=1"),
    "--config.mesh.data=1",
]


@pytest.mark.slow
def test_the_diagnosis_names_the_tensor_the_dimension_the_token_and_the_cure(tmp_path, capsys):
    assert main(["analyze", "builtin:minilm-2l", f"--workdir={tmp_path}/run", *FEW]) == 0
    told = capsys.readouterr().out
    # What `tests/test_builtin.py` finds in the model without qtx's analysis.
    assert "layers/mlp/out[0] holds the largest outliers: 19" in told
    assert "in dimension 99, at token [CLS]" in told
    lines = {line.split(" | ")[0].removeprefix("| "): line.split(" | ") for line in told.splitlines() if " | " in line}
    fidelity = {
        name: float(cells[1]) for name, cells in lines.items() if name in ("static", "weights by MSE", "hadamard")
    }
    assert fidelity["static"] < fidelity["weights by MSE"] < fidelity["hadamard"] < 1
    assert "layers/mlp/out/kernel[0]" in told
    assert json.loads((tmp_path / "run" / "diagnosis.json").read_text())["checksum"]


def test_what_is_no_checkpoint_is_told_in_one_line(tmp_path, capsys):
    assert main(["analyze", str(tmp_path / "nowhere"), f"--workdir={tmp_path}/run"]) == 2
    assert capsys.readouterr().err.startswith("qtx: error: no checkpoint ")
    assert not (tmp_path / "run").exists()
