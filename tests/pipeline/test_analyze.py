"""Diagnosing a checkpoint by the command line, on a model that is really ill."""

from __future__ import annotations

import json
import shutil

import flax.linen as nn
import jax
import pytest

from qtx import interop
from qtx.builtin import builtin_checkpoint
from qtx.cli.main import main
from qtx.families import build
from qtx.models import OptConfig, VitConfig
from tests.planted import DIMENSION, HEAD, HEADS, LAYER, planted

FEW = [
    *("--config.data.sequence_length=32", "--config.training.batch_size=8", "--config.training.eval_batches=1"),
    "--config.mesh.data=1",
]
PATIENT = builtin_checkpoint("minilm-2l")
WORDS = (PATIENT / "vocab.txt").read_text().splitlines()
SHAPE = dict(num_layers=2, width=32, num_heads=HEADS, mlp_width=64, init_std=0.15)
SMALL = {
    "opt": OptConfig(**SHAPE, vocab_size=len(WORDS), max_length=32),
    "vit": VitConfig(**SHAPE, image_size=8, channels=1, num_classes=10, patch_size=2),
}
NANO = "tests/nano_config.py"


def lines_of(arguments, capsys):
    capsys.readouterr()
    assert main(["analyze", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.long
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
    assert told.splitlines()[-1] == f"report: {tmp_path}/run/report.html"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "layers/mlp/out[0] holds the largest outliers: 19" in page and page.count("<figure>") >= 6


@pytest.mark.long
@pytest.mark.parametrize(("family", "place"), [("opt", "token [CLS]"), ("vit", "the class token")])
def test_what_was_planted_in_a_checkpoint_is_named(family, place, tmp_path, capsys):
    """Written as Hugging Face stores it, without a trace of what was done to it."""
    config, checkpoint = SMALL[family], tmp_path / "there"
    params = nn.unbox(jax.jit(build(config).init)(jax.random.key(0), config.example())["params"])
    interop.save(checkpoint, config, planted(params, WORDS.index("[CLS]")))
    if family == "opt":
        shutil.copy(PATIENT / "vocab.txt", checkpoint)
    told = lines_of([str(checkpoint), f"--workdir={tmp_path}/run", *(FEW if family == "opt" else FEW[1:])], capsys)
    (outliers,) = [line for line in told if "holds the largest outliers" in line]
    assert outliers.startswith(f"layers/mlp/out[{LAYER}] ") and f"in dimension {DIMENSION}, at {place}," in outliers
    heads = [line for line in told if line.startswith("| layers/attention[")]
    assert heads[0].startswith(f"| layers/attention[0], head {HEAD} |")
    found = json.loads((tmp_path / "run" / "diagnosis.json").read_text())
    assert (found["metric"], found["model"][:3].lower()) == ({"opt": "perplexity", "vit": "fidelity"}[family], family)
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.long
def test_a_model_without_attention(tmp_path, capsys):
    assert main(["train", f"--config={NANO}:none", f"--workdir={tmp_path}/run"]) == 0
    assert "No head attends to anything: attention is off." in lines_of([f"{tmp_path}/run"], capsys)
    assert "attention is off" in (tmp_path / "run" / "report.html").read_text()


def test_what_is_no_checkpoint_is_told_in_one_line(tmp_path, capsys):
    assert main(["analyze", str(tmp_path / "nowhere"), f"--workdir={tmp_path}/run"]) == 2
    assert capsys.readouterr().err.startswith("qtx: error: no checkpoint ")
    assert not (tmp_path / "run").exists()
