"""The health table: what is listed is measured once, and the page has a row for it."""

from __future__ import annotations

import json
import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest

from experiments import health
from qtx import interop
from qtx.builtin import builtin_checkpoint
from qtx.families import build
from qtx.models import BertConfig

PAGE = f"# Title\n\n{health.BEGIN}\nold\n{health.END}\nThe rest.\n"
LARGEST = 40.0
DIMENSION = 5


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a page and results of its own, and a function that lists models."""
    monkeypatch.setattr(health, "MODELS", tmp_path / "models.txt")
    monkeypatch.setattr(health, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(health, "PAGE", tmp_path / "health.md")
    (tmp_path / "health.md").write_text(PAGE)
    return tmp_path


def line(model, state, **values):
    ways = dict.fromkeys(("FP", *health.WAYS), 1.0) | values
    largest = {"value": 1195.4, "tensor": "layers/mlp/out[8]", "dimension": "568", "token": "</s>"}
    judge = {"per tensor": 0.268, "per channel": 0.284} if state == health.CAME else {}
    heads = {"rest": 30, "of": 144}
    return {"model": model, "state": state, "largest": largest, "heads": heads, "fidelity": ways, "onnxruntime": judge}


def test_a_model_is_a_line_of_the_list(here):
    health.MODELS.write_text("# of models\n\nbuiltin:minilm-2l  healed/minilm-2l  # both\nmodels/all-mpnet-base-v2\n")
    rows = health.rows_of(health.MODELS)
    assert [row.name for row in rows] == ["minilm-2l", "all-mpnet-base-v2"]
    assert [row.healed and str(row.healed) for row in rows] == ["healed/minilm-2l", None]


def test_the_table_has_two_rows_of_a_healed_model():
    lines = [line("x", health.CAME, **{"W8A8, min-max": 0.27, "W6A6, MSE": 0.0611}), line("x", health.HEALED)]
    rows = health.table(lines).splitlines()
    assert len({row.count("|") for row in rows}) == 1
    assert rows[2].startswith("| x | as it came | 1195 | `layers/mlp/out[8]`, dimension 568, at `</s>` | 30 of 144 |")
    assert rows[2].endswith("| 1.000 | 0.270 | 1.000 | 1.000 | 0.061 | 0.268 | 0.284 |")
    assert rows[3].startswith("|  | healed |") and rows[3].endswith("| 1.000 |  |  |")


@pytest.mark.parametrize(
    ("models", "page", "arguments", "says"),
    [
        ("a b c", PAGE, [], "has 3 words"),
        ("here/a\nthere/a", PAGE, [], "has a twice"),
        ("here/a", "no place", [], "lacks the lines"),
        ("here/a", PAGE, ["--again=b"], "has no b: it has a"),
    ],
)
def test_bad_input_is_told_in_a_line(models, page, arguments, says, here, capsys):
    health.MODELS.write_text(models)
    health.PAGE.write_text(page)
    assert health.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("health: error: ") and says in told and told.count("\n") == 1
    assert health.PAGE.read_text() == page


def write(folder, largest):
    """A random encoder of two layers; the second writes a large value into one dimension, whatever it reads."""
    config = BertConfig(num_layers=2, width=16, num_heads=2, mlp_width=32, vocab_size=1459, max_length=32, head="none")
    params = nn.unbox(build(config).init(jax.random.key(0), config.example())["params"])
    params = jax.tree.map(np.array, params)
    params["layers"]["mlp"]["out"]["bias"][1, DIMENSION] = largest
    interop.save(folder, config, params)
    shutil.copy(builtin_checkpoint("minilm-2l") / "vocab.txt", folder)
    return folder


@pytest.mark.slow
def test_what_is_listed_is_measured_once(here, capsys, monkeypatch):
    ways = ["W8A8, min-max", "W8A8, products alone, weights per channel"]
    monkeypatch.setattr(health, "WAYS", {way: health.WAYS[way] for way in ways})
    ill, well = (write(here / name, largest) for name, largest in (("ill", LARGEST), ("well", 0.0)))
    health.MODELS.write_text(f"{ill} {well}\nmeasured/before {here}/nowhere\nnothing/there\n")
    health.RESULTS.mkdir()
    (health.RESULTS / "before.jsonl").write_text(json.dumps(line("before", health.CAME)))
    assert health.main([]) == 0
    assert "there is not measured: " in capsys.readouterr().err
    came, healed = health.kept(health.RESULTS / "ill.jsonl")
    assert [came["state"], healed["state"]] == ["as it came", "healed"] and came["texts"] == healed["texts"] == 64
    assert came["largest"]["tensor"] == "layers/mlp/out[1]" and came["largest"]["dimension"] == str(DIMENSION)
    assert came["largest"]["value"] == pytest.approx(LARGEST, rel=0.05) and came["heads"]["of"] == 4
    assert healed["largest"]["value"] < LARGEST / 4
    # Outputs are held against the original's, in which the last norm divides all other dimensions by the outlier.
    assert came["fidelity"]["FP"] == pytest.approx(1, abs=1e-5) and healed["fidelity"]["FP"] < 0.99
    assert came["fidelity"][ways[0]] < came["fidelity"][ways[1]]  # products alone leave the outlier's sum alone
    page = health.PAGE.read_text()
    assert page.startswith("# Title\n") and page.endswith("The rest.\n") and "old" not in page
    assert page.count("| as it came |") == 2 and page.count("| healed |") == 1

    def measured(*args):
        raise AssertionError("measured again")

    monkeypatch.setattr(health, "measured", measured)
    assert health.main([]) == 0 and health.PAGE.read_text() == page
    with pytest.raises(AssertionError, match="measured again"):
        health.main(["--again=ill"])
    assert health.kept(health.RESULTS / "ill.jsonl") == [came, healed]
