"""qtx against the answers of the paper's official implementation, and that the check can fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from experiments.conformance import attention_of, check_model, main

REFERENCE = Path(__file__).parents[1] / ".." / "shared" / "reference"
MODELS = sorted(path.parent.name for path in REFERENCE.glob("*/expected.json"))


def run(capsys, *arguments):
    """The exit code and the rows of `python -m experiments.conformance --json`."""
    code = main([*map(str, arguments), "--json"])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    "softmax, gamma, zeta",
    [("clipped(-.03:1.03)", -0.03, 1.03), ("clipped(0:1.003)", 0.0, 1.003), ("clipped(-.005:1.005)", -0.003, 1.005)],
)
def test_the_official_options_of_clipped_softmax(softmax, gamma, zeta):
    attention = attention_of({"softmax": softmax})
    assert (attention.gamma, attention.zeta) == (gamma, zeta)


@pytest.mark.parametrize("model", MODELS)
def test_floating_point_model_agrees(reference, model):
    row, _ = next(check_model(reference / model))
    assert row.ok, row


@pytest.mark.slow
def test_quantized_models_of_one_layer_agree(reference, capsys):
    code, rows = run(capsys, reference / "bert_gate_linear_1l", reference / "opt_vanilla_1l")
    assert [row for row in rows if not row["ok"]] == []
    assert code == 0
    # Floating point and four schemes each, and the bars over both models together.
    assert len(rows) == 2 * 5 + 1
    assert rows[-1]["model"] == "models of one layer"


@pytest.mark.slow
def test_every_reference_model_agrees(reference, capsys):
    code, rows = run(capsys, reference)
    assert [row for row in rows if not row["ok"]] == []
    assert code == 0
    assert len(rows) == 8 * 5 + 1


def edit_answers(folder, change):
    answers = json.loads((folder / "expected.json").read_text())
    change(answers)
    (folder / "expected.json").write_text(json.dumps(answers))


def move_range(answers):
    """Shifts one end of one range by 3.5 steps of its grid."""
    ends = answers["schemes"]["w8a8_minmax"]["ranges"]["model.decoder.layers.0.fc1_act.activation_quantizer"]
    ends["x_max"] += 3.5 * (ends["x_max"] - ends["x_min"]) / 255


def drop_range(answers):
    del answers["schemes"]["w8a8_minmax"]["ranges"]["model.decoder.layers.0.fc2.weight_quantizer"]


def disturb_metric(answers):
    answers["metrics"]["avg_kurtosis"] *= 1.002


def disturb_loss(answers):
    answers["fp_loss"][1] += 1e-4


def demand_more(answers):
    answers["schemes"]["w8a8_minmax"]["relative_error_vs_fp"] = 1e-9


DAMAGES = {
    "range moved": (move_range, {"w8a8_minmax"}),
    "range missing": (drop_range, {"w8a8_minmax"}),
    "metric": (disturb_metric, {"fp"}),
    "loss": (disturb_loss, {"fp"}),
    "quantized logits": (demand_more, {"w8a8_minmax"}),
}


@pytest.fixture
def small_copy(reference, tmp_path):
    """A copy of one model with one scheme."""
    folder = tmp_path / "model"
    shutil.copytree(reference / "opt_vanilla_1l", folder)
    edit_answers(folder, lambda a: a.update(schemes={"w8a8_minmax": a["schemes"]["w8a8_minmax"]}))
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_wrong_answer_fails_its_row_alone(small_copy, capsys, damage):
    change, wrong = DAMAGES[damage]
    edit_answers(small_copy, change)
    code, rows = run(capsys, small_copy)
    assert code == 1
    assert {row["scheme"] for row in rows if not row["ok"]} == wrong
    worst = rows[1]["worst_range"]
    if damage == "range moved":
        assert worst[0] == "layers/mlp/hidden[0]" and 3.4 < worst[1] < 3.6
    if damage == "range missing":
        assert worst == ["layers/mlp/out/kernel[0]", None]


def test_wrong_logits_fail_floating_point(small_copy, capsys):
    path = small_copy / "expected.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "fp.logits.1": tensors["fp.logits.1"] * np.float32(1.0001)}, path)
    code, rows = run(capsys, small_copy)
    assert (code, [row["ok"] for row in rows]) == (1, [False, True])


def test_the_readable_table_names_the_failure(small_copy, capsys):
    edit_answers(small_copy, drop_range)
    assert main([str(small_copy)]) == 1
    header, floating_point, quantized = capsys.readouterr().out.splitlines()
    assert "logits" in header and floating_point.endswith("ok")
    assert "layers/mlp/out/kernel[0] has no counterpart" in quantized and quantized.endswith("OUT OF TOLERANCE")


def test_a_folder_without_models_is_a_users_mistake(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "no expected.json and expected.safetensors in" in capsys.readouterr().err


def test_an_unknown_softmax_is_a_users_mistake(small_copy, capsys):
    edit_answers(small_copy, lambda answers: answers["variant"].update(softmax="entmax"))
    assert main([str(small_copy)]) == 2
    assert "expected 'vanilla' or 'clipped(<gamma>:<zeta>)'" in capsys.readouterr().err
