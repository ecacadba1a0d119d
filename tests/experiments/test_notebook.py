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
    """What a notebook prints, and how many pictures it shows, with parts of its source replaced."""
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
    text = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    return text, sum("image/png" in output.get("data", {}) for output in outputs)


def last_row(text, variant):
    """Perplexity in floating point and per scheme, from the last table."""
    return [float(cell) for cell in text.split(f"\n{variant}")[-1].split("\n")[0].split()]


@pytest.mark.long
def test_it_shows_what_it_says():
    text, pictures = executed("quickstart.ipynb", {})
    softmax, gated = last_row(text, "softmax"), last_row(text, "gated_linear")
    assert 1 < softmax[0] < 64 and abs(softmax[0] - gated[0]) < 0.5  # a uniform guess among the tokens has 64
    assert softmax[2] / softmax[0] > gated[2] / gated[0] > 1
    assert pictures == 2


@pytest.mark.long
def test_healing_lowers_the_largest_values():
    """On short sequences, for a third of the steps."""
    shorter = {
        "config.training.update(batch_size=8, eval_batches=8)": "config.data.sequence_length = 32\n"
        "config.training.update(batch_size=8, eval_batches=8)",
        "diagnose(original)": "diagnose(original, examples=8)",
        "healing.training.eval_batches = 8": "healing.data.sequence_length = 32\n"
        "healing.training.update(steps=60, eval_batches=8)",
    }
    text, pictures = executed("healing.ipynb", shorter)
    assert re.search(r"layers/mlp/out\[0\] holds the largest outliers: 1[89]\d in dimension 99, at token \[CLS\]", text)
    largest = {name: float(first) for name, first in re.findall(r"^(before|after): \[ *([\d.]+)", text, re.MULTILINE)}
    assert largest["before"] > 150 > 10 * largest["after"]
    minmax, mse = (tuple(map(float, pair)) for pair in re.findall(r"fidelity ([\d.]+) -> ([\d.]+)", text))
    assert minmax[0] < mse[0] < 1 and minmax[0] < minmax[1] < 1
    assert "model.safetensors" in text and "vocab.txt" in text
    assert pictures == 1
