"""Training an experiment: attention's health is watched from the first step."""

from __future__ import annotations

import pytest

from qtx.experiment import default, read
from qtx.pipeline.assemble import assemble
from qtx.pipeline.train import train
from qtx.training import RunFolder, read_metrics


@pytest.fixture(scope="module")
def experiment():
    """A narrow model with the usual initialization, whose attention a large alpha kills."""
    config = default("opt", "clipped_softmax,alpha=8")
    shape = dict(num_layers=1, width=16, num_heads=2, mlp_width=32, max_length=16)
    config.model.update(shape | {"dropout": 0.0, "attention_dropout": 0.0})
    config.data.update({"source": "bigram_backcopy", "sequence_length": 16})
    config.training.update({"steps": 1, "warmup_steps": 0, "batch_size": 16})
    config.mesh.data = 1
    return read(config)


@pytest.mark.slow
def test_dead_attention_is_measured_and_told(experiment, tmp_path, capsys):
    result = train(assemble(experiment), tmp_path)
    lines = read_metrics(tmp_path, "monitor")
    assert [line["step"] for line in lines] == [0, 1]
    # The first rows see few tokens: their probabilities survive.
    assert all(0.5 < line["dead_row_share"] < 1 for line in lines)
    assert all(line["max_inf_norm"] > 0 and line["avg_kurtosis"] > 0 for line in lines)
    assert all("init_std=0.25" in line["warning"] and "alpha (now 8.0)" in line["warning"] for line in lines)
    assert capsys.readouterr().err.count("warning: step") == 2
    assert result.metrics["predictions"] > 0
    assert RunFolder(tmp_path).read_config()["model"]["attention"]["alpha"] == 8.0
