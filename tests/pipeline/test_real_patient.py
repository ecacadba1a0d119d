"""A published model of the size of BERT-base that is really ill, on a few texts; see docs/patients.md."""

from __future__ import annotations

import json

import pytest

from qtx.cli.main import main


@pytest.mark.long
def test_int8_costs_a_published_mpnet_its_embeddings(tmp_path, mpnet):
    run, few = tmp_path / "run", ["--config.training.batch_size=4", "--config.training.eval_batches=1"]
    few += ["--config.quantization.calibration_batches=1", "--config.mesh.data=1"]
    assert main(["import", str(mpnet), f"--workdir={run}", *few]) == 0
    assert main(["quantize", f"--workdir={run}"]) == 0
    measured = json.loads((run / "results.json").read_text())["measurements"]
    found = {one["scheme"]: one["values"] for one in measured}
    assert 900 < found["fp"]["max_inf_norm"] < 1500
    assert found["fp"]["fidelity"] == pytest.approx(1, abs=1e-5)
    assert found["w8a8"]["fidelity"] < 0.9
