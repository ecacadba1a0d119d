"""Mechanisms that the package does not have, registered from outside, go through train, quantize, export and report."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from qtx.attention import GATES, NORMALIZERS
from qtx.attention.gates import DenseGate
from qtx.attention.normalizers import Rows
from qtx.cli.main import main
from qtx.masks import Mask

ROOT = Path(__file__).parents[1]
NANO = Path(__file__).with_name("nano_config.py")


def example(page):
    """The first Python file of a page of the documentation, run."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    found = {"__name__": "example"}
    exec(code[1], found)
    return found


@dataclasses.dataclass(frozen=True)
class Contrary(DenseGate):
    """An element-wise gate with a bias."""

    strength: float = 1.0

    @property
    def initial_bias(self):
        return self.strength

    def logits_per_head(self, head_dim):
        return head_dim


@pytest.fixture
def temperature(monkeypatch):
    cls = example("adding-a-variant.md")["Temperature"]
    monkeypatch.setitem(NORMALIZERS, "temperature", cls)
    monkeypatch.setitem(GATES, "contrary", Contrary)
    return cls()


def test_the_documented_normalizer_computes_its_formula(temperature):
    scores = np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32)
    t = np.array([0.5, 2.0], np.float32)
    found = temperature({"temperature": t}, scores, Rows(Mask(4, causal=True)))
    for h in range(2):
        for i in range(4):
            e = np.exp(t[h] * scores[0, h, i, : i + 1])
            np.testing.assert_allclose(found[0, h, i, : i + 1], e / e.sum(), rtol=1e-5)


def test_a_normalizer_with_a_parameter_and_an_elementwise_gate_go_all_the_way(temperature, tmp_path, capsys):
    run, attention = tmp_path / "run", "--config.model.attention"
    options = [f"{attention}.normalizer=temperature", f"{attention}.gate=contrary", f"{attention}.gate_strength=0.5"]
    assert main(["train", f"--config={NANO}", f"--workdir={run}", *options]) == 0, capsys.readouterr().err
    assert "attention: softmax,normalizer=temperature,gate=contrary,gate_strength=0.5" in capsys.readouterr().out
    assert main(["quantize", f"--workdir={run}"]) == 0, capsys.readouterr().err
    for form in ("int8", "huggingface"):
        assert main(["export", f"--format={form}", f"--workdir={run}"]) == 0, capsys.readouterr().err
    assert main(["evaluate", f"--workdir={run / 'export' / 'int8'}"]) == 0, capsys.readouterr().err
    names = load_file(run / "export" / "huggingface" / "model.safetensors")
    assert {name.rpartition(".")[2] for name in names if "temperature" in name} == {"temperature"}
    assert sum("gate_predictor" in name for name in names) == 2 * sum("temperature" in name for name in names)
