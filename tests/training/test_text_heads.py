"""Losses and metrics of numbers and of labels against scikit-learn and SciPy; and runs from training to export."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, log_loss, mean_squared_error

from qtx.cli.main import main
from qtx.data import OBJECTIVES
from qtx.interop import load
from qtx.losses import Training
from qtx.training.evaluate import add_up

RNG = np.random.default_rng(0)
WEIGHTS = np.ones((3, 16), np.float32)
WEIGHTS[2, 9:] = 0  # padding of the last batch


def measured(objective, outputs, labels):
    loss = OBJECTIVES[objective].loss
    batches = [{"labels": y, "weights": w, "z": z} for y, w, z in zip(labels, WEIGHTS, outputs, strict=True)]
    found = add_up(lambda b: loss.measured(b["z"], b, 1), batches)
    sums = [loss(b["z"], b, Training({}, b)) for b in batches]
    total = float(sum(s.loss for s in sums) / sum(s.weight for s in sums))
    assert found["loss"] == pytest.approx(total, rel=1e-5) and found["predictions"] == WEIGHTS.sum()
    return found


def test_correlations_are_scipy_s():
    labels = RNG.integers(0, 6, (3, 16, 2)).astype(np.float32)  # with ties
    outputs = np.round(labels + RNG.normal(size=labels.shape), 1).astype(np.float32)
    found = measured("sequence_regression", outputs, labels)
    z, y = (x[WEIGHTS > 0] for x in (outputs.astype(np.float64), labels))
    assert found["loss"] == pytest.approx(mean_squared_error(y, z), rel=1e-6)
    assert found["correlation"] == pytest.approx(np.mean([pearsonr(z[:, k], y[:, k])[0] for k in (0, 1)]))
    assert found["rank_correlation"] == pytest.approx(np.mean([spearmanr(z[:, k], y[:, k])[0] for k in (0, 1)]))


def test_f1_and_loss_of_labels_are_scikit_learn_s():
    labels = (RNG.random((3, 16, 4)) < 0.3).astype(np.float32)
    labels[..., 3] = 0
    outputs = (3 * labels - 1.5 + RNG.normal(size=labels.shape)).astype(np.float32)
    outputs[..., 3] = -1  # a label that is not there and is never given
    found = measured("multi_label_classification", outputs, labels)
    z, y = (x[WEIGHTS > 0] for x in (outputs.astype(np.float64), labels))
    p = 1 / (1 + np.exp(-z))
    losses = [log_loss(y[:, k], p[:, k], labels=[0, 1]) for k in range(4)]
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["f1"] == pytest.approx(f1_score(y, z > 0, average="micro", zero_division=0))
    for k in range(3):
        assert found[f"f1/{k}"] == pytest.approx(f1_score(y[:, k], z[:, k] > 0))
    assert "f1/3" not in found


CONFIG = """
from qtx.experiment import default

def get_config(variant="softmax"):
    config = default("bert", variant)
    config.objective, config.model.head = {objective!r}, {head!r}
    config.model.update(dict(num_layers=1, width=32, num_heads=2, mlp_width=32, init_std=0.2, dropout=0.0))
    config.model.attention_dropout = 0.0
    config.data.source = "text_labels"
    config.data.files = ({file!r},)
    config.data.vocab_size = 30
    config.data.sequence_length = 16
    config.data.held_out_fraction = 0.3
    config.training.update(dict(steps=300, batch_size=32, warmup_steps=10, learning_rate=3e-3))
    config.training.best_metric = {metric!r}
    config.quantization.calibration_batches = 2
    config.quantization.schemes = ("w8a8", "w2a2")
    config.mesh.data = 1
    return config
"""
WORDS = ("warm", "cold", "wet", "dry", "far", "near")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "head", "metric"),
    [
        pytest.param("sequence_regression", "regression", "correlation", marks=pytest.mark.long),
        ("multi_label_classification", "multi_label", "f1"),
    ],
)
def test_from_texts_to_a_quantized_head_and_what_heals_it(tmp_path, objective, head, metric, capsys):
    """The labels are how many of the words are warm, or whether the text is warm, and wet."""
    rows = []
    for _ in range(400):
        words = RNG.choice(WORDS, 6).tolist()
        of_head = {"regression": words.count("warm") / 2, "multi_label": [w for w in ("warm", "wet") if w in words]}
        rows.append(json.dumps({"text": " ".join(words), "label": of_head[head]}))
    (tmp_path / "texts.jsonl").write_text("\n".join(rows) + "\n")
    file = str(tmp_path / "texts.jsonl")
    (tmp_path / "config.py").write_text(CONFIG.format(objective=objective, head=head, file=file, metric=metric))
    run = f"--workdir={tmp_path}/run"
    assert main(["train", f"--config={tmp_path}/config.py", run]) == 0
    assert main(["quantize", run]) == 0
    assert main(["evaluate", run]) == 0
    told = capsys.readouterr().out
    assert ("| rank correlation |" in told) == (head == "regression") and ("| F1 of wet |" in told) == (
        head != "regression"
    )
    results = json.loads((tmp_path / "run/results.json").read_text())
    values = {m["scheme"]: m["values"] for m in results["measurements"]}
    assert results["metric"] == metric and values["w8a8"][metric] > 0.9 * values["fp"][metric] > 0.4
    assert values["w2a2"][metric] < values["w8a8"][metric]
    assert main(["export", run, "--format=huggingface"]) == 0
    config, _ = load(tmp_path / "run/export/huggingface")
    assert config.head == head
    # The trained model is a teacher in turn.
    pupil = [f"--config.start={tmp_path}/run", "--config.objective=distill", "--config.training.best_metric=fidelity"]
    steps = ["--config.training.steps=4", "--config.training.warmup_steps=1", f"--workdir={tmp_path}/pupil"]
    assert main(["train", f"--config={tmp_path}/config.py", *pupil, *steps]) == 0
    assert main(["evaluate", f"--workdir={tmp_path}/pupil"]) == 0
    (measured,) = json.loads((tmp_path / "pupil/results.json").read_text())["measurements"]
    assert measured["values"]["fidelity"] > 0.8
