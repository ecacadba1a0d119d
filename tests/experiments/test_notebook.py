"""The notebooks run from top to bottom, in a kernel of their own."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "experiments" / "notebooks"


def executed(name, replacements):
    """Runs a notebook with parts of its source replaced; returns what it prints and shows as text, and how many
    pictures and pages it shows."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    for old, new in replacements.items():
        assert sum(old in cell.source for cell in notebook.cells) == 1, f"no single cell has {old!r}"
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    # One device, as a reader has, and qtx from this checkout.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(ROOT), "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    NotebookClient(notebook, timeout=1800, kernel_name="python3").execute(env=environment)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = [output.text for output in outputs if output.output_type == "stream" and output.name == "stdout"]
    shown = [output.data for output in outputs if "data" in output]
    text += [f"{data['text/plain']}\n" for data in shown]
    return "".join(text), *(sum(kind in data for data in shown) for kind in ("image/png", "text/html"))


def last_row(text, variant):
    """Perplexity in floating point and per scheme, from the last table."""
    return [float(cell) for cell in text.split(f"\n{variant}  ")[-1].split("\n")[0].split()]


@pytest.mark.long
def test_it_shows_what_it_says():
    text, pictures, pages = executed("quickstart.ipynb", {})
    softmax, gated = last_row(text, "softmax"), last_row(text, "gated_linear")
    assert 1 < softmax[0] < 64 and abs(softmax[0] - gated[0]) < 0.5  # a uniform guess among the tokens has 64
    assert softmax[2] / softmax[0] > gated[2] / gated[0] > 1
    assert (pictures, pages) == (1, 1)


@pytest.mark.long
def test_healing_lowers_the_largest_values():
    """On short sequences, in a few updates."""
    shorter = {
        '"training.eval_batches": 8': '"training.eval_batches": 8, "data.sequence_length": 32',
        "model.diagnose()": "model.diagnose(examples=8)",
        "model.heal(hours=0.5)": "model.heal(steps=30)",
    }
    text, pictures, pages = executed("healing.ipynb", shorter)
    assert re.search(r"layers/mlp/out\[0\] holds the largest outliers: 1[89]\d in dimension 99, at token \[CLS\]", text)
    assert re.search(r"\r30/30 loss [^\r]*\n", text)
    largest = {name: float(x) for name, x in re.findall(r"^(before|after): largest value ([\d.]+)", text, re.MULTILINE)}
    assert largest["before"] > 150 > 10 * largest["after"]
    found = re.findall(r"^(before|after): W8A8 minmax ([\d.]+), mse ([\d.]+)", text, re.MULTILINE)
    before, after = ([float(x) for x in values] for _, *values in found)
    assert before[0] < before[1] < 1 and before[0] < after[0] < 1
    assert "model.safetensors" in text and "vocab.txt" in text and "README.md" in text
    assert (pictures, pages) == (1, 1)


@pytest.mark.slow
def test_a_model_of_ones_own_goes_to_integers():
    text, *_ = executed("your_own_model.ipynb", {"range(1500)": "range(600)"})
    values = dict(re.findall(r"^(floating point|w\da\d|integers): accuracy ([\d.]+)", text, re.MULTILINE))
    accuracy = {name: float(value) for name, value in values.items()}
    assert accuracy["floating point"] > 0.8 and accuracy["integers"] == accuracy["w8a8"]
    assert abs(accuracy["w8a8"] - accuracy["floating point"]) < 0.03 < accuracy["w8a8"] - accuracy["w4a4"]
    assert "matrix products in floating point: logits\n" in text and "kernels: int8\n" in text
