"""qtx against the answers of the paper's official implementation, and that the check can fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from experiments.conformance import check_model, main
from experiments.official_variants import attention_of, check_gate
from qtx.foundation.errors import QtxError

MODELS = sorted(path.parent.name for path in (Path(__file__).parents[1] / "reference").glob("*/expected.json"))


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
    assert (attention.normalizer.gamma, attention.normalizer.zeta) == (gamma, zeta)


@pytest.mark.representative("opt_vanilla_1l")
@pytest.mark.parametrize("model", MODELS)
def test_floating_point_model_agrees(reference, model):
    row, _ = next(check_model(reference / model))
    assert row.ok, row


@pytest.mark.slow
def test_a_quantized_model_of_one_layer_agrees(reference, capsys):
    """A newcomer's proof that the numbers are the paper's."""
    code, rows = run(capsys, reference / "bert_gate_linear_1l")
    assert [row for row in rows if not row["ok"]] == []
    assert code == 0
    assert len(rows) == 5  # floating point and four schemes


@pytest.mark.long
def test_every_reference_model_agrees(reference, capsys):
    code, rows = run(capsys, reference)
    assert [row for row in rows if not row["ok"]] == []
    assert code == 0
    assert len(rows) == 4 * 5 + 1


@pytest.mark.long
def test_further_reference_models_agree(more_references, capsys):
    code, rows = run(capsys, more_references)
    assert [row for row in rows if not row["ok"]] == []
    assert code == 0 and len(rows) >= 8 * 5 + 1


def opt_logits(weights: dict[str, np.ndarray], tokens: np.ndarray, mask: np.ndarray, alpha: float) -> np.ndarray:
    """A pre-LN OPT of one layer in float64, with clipped softmax of gamma = -alpha / T: logits `[B, T, vocab]`."""
    w = {name.removeprefix("model.decoder."): value.astype(np.float64) for name, value in weights.items()}

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def heads(x):
        return x.reshape(*x.shape[:2], 4, -1).transpose(0, 2, 1, 3)

    (batch, length), layer = tokens.shape, "layers.0"
    positions = np.cumsum(mask, axis=1) * mask - 1 + 2
    x = w["embed_tokens.weight"][tokens] + w["embed_positions.weight"][positions]
    y = norm(x, f"{layer}.self_attn_layer_norm")
    q, k, v = (heads(linear(y, f"{layer}.self_attn.{name}_proj")) for name in "qkv")
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])
    visible = np.tril(np.ones((length, length), bool)) & mask[:, None, None, :].astype(bool)
    scores = np.where(visible, scores, -np.inf)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    gamma = -alpha / length
    probs = np.clip((1 - gamma) * e / e.sum(-1, keepdims=True) + gamma, 0, 1)
    context = (probs @ v).transpose(0, 2, 1, 3).reshape(batch, length, -1)
    x = x + linear(context, f"{layer}.self_attn.out_proj")
    hidden = np.maximum(linear(norm(x, f"{layer}.final_layer_norm"), f"{layer}.fc1"), 0)
    x = norm(x + linear(hidden, f"{layer}.fc2"), "final_layer_norm")
    return x @ w["embed_tokens.weight"].T


@pytest.fixture(scope="module", params=["4.0", 4.0])
def alpha_model(request, reference, tmp_path_factory):
    """A folder of the format whose model clips by alpha, with the answers of the NumPy model above."""
    folder = tmp_path_factory.mktemp("alpha") / "model"
    shutil.copytree(reference / "opt_vanilla_1l", folder)
    weights, answers = (load_file(folder / f"{name}.safetensors") for name in ("model", "expected"))
    for i in range(2):
        tokens, mask = answers[f"eval.{i}.input_ids"], answers[f"eval.{i}.attention_mask"]
        vanilla = opt_logits(weights, tokens, mask, 0.0)
        np.testing.assert_allclose(vanilla, answers[f"fp.logits.{i}"], atol=2e-5 * np.abs(vanilla).max())
        answers[f"fp.logits.{i}"] = opt_logits(weights, tokens, mask, 4.0).astype(np.float32)
    save_file(answers, folder / "expected.safetensors")
    edit_answers(folder, lambda a: a.update(variant={"softmax": "vanilla", "alpha": request.param}))
    return folder


@pytest.mark.slow
def test_alpha_is_read(alpha_model):
    row, _ = next(check_model(alpha_model))
    assert row.logits_relative_error < 1e-5


@pytest.mark.slow
def test_a_model_whose_alpha_is_left_out_disagrees(alpha_model, tmp_path):
    shutil.copytree(alpha_model, tmp_path / "model")
    edit_answers(tmp_path / "model", lambda a: a.update(variant={"softmax": "vanilla"}))
    row, _ = next(check_model(tmp_path / "model"))
    assert row.logits_relative_error > 1e-3 and not row.ok


LINEAR = {"attn_gate_type": "conditional_per_token", "attn_gate_init": "0.25"}
BAD_VARIANTS = {
    "unknown key": ({"softmax": "vanilla", "aplha": 4}, "'aplha': did you mean 'alpha'?"),
    "both ways to clip": ({"softmax": "clipped(0:1.03)", "alpha": 4}, "expected one of them to clip"),
    "alpha of no number": ({"softmax": "vanilla", "alpha": "four"}, "alpha is 'four': expected a number"),
    "true alpha": ({"softmax": "vanilla", "alpha": True}, "alpha is True: expected a number"),
    "no numbers to clip": ({"softmax": "clipped(e:1)"}, "expected 'vanilla' or 'clipped(<gamma>:<zeta>)'"),
    "a difference to clip": ({"softmax": "clipped(1-2:1.03)"}, "expected 'vanilla' or 'clipped(<gamma>:<zeta>)'"),
    "negative alpha": ({"softmax": "vanilla", "alpha": -4}, "alpha is -4.0: expected alpha >= 0"),
    "no softmax": ({"alpha": 4}, "softmax variant None: expected 'vanilla'"),
    "no object": ([1], "expected an object with softmax, alpha, gate"),
}


@pytest.mark.parametrize("name", BAD_VARIANTS)
def test_what_the_official_code_has_not_is_refused(name):
    variant, message = BAD_VARIANTS[name]
    with pytest.raises(QtxError) as error:
        attention_of(variant)
    assert message in str(error.value)


GATES = {
    "linear": LINEAR,
    "mlp": LINEAR | {"attn_gate_mlp": "True"},
    "all_heads_linear": LINEAR | {"attn_gate_linear_all_features": True, "attn_gate_mlp": False},
    "none": {"attn_gate_type": "none"},
}


@pytest.mark.parametrize("said", GATES)
@pytest.mark.parametrize("shown", GATES)
def test_the_gate_that_is_named_is_the_gate_that_is_there(said, shown):
    if said == shown:
        check_gate({"softmax": "vanilla", "gate": GATES[said]}, shown)
        return
    with pytest.raises(QtxError, match=f"says gate {said!r}, but its weights are those of gate {shown!r}"):
        check_gate({"softmax": "vanilla", "gate": GATES[said]}, shown)


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (LINEAR | {"attn_gate_type": "conditional_per_head"}, "unknown attn_gate_type 'conditional_per_head'"),
        ([], "expected an object with attn_gate_type"),
        (LINEAR | {"attn_gate_init": "abc"}, "attn_gate_init is 'abc': expected a number"),
        ({"attn_gate_type": "none", "attn_gate_mlp": "True"}, "attn_gate_type is none, but there are options"),
        (LINEAR | {"attn_gate_mlp": "yes"}, "attn_gate_mlp is 'yes': expected True or False"),
        (LINEAR | {"attn_gate_mlp": True, "attn_gate_linear_all_features": "True"}, "are both true"),
        (LINEAR | {"attn_gate_mlp2": "True"}, "'attn_gate_mlp2': did you mean 'attn_gate_mlp'?"),
    ],
)
def test_a_gate_that_qtx_has_not_is_refused(gate, message):
    with pytest.raises(QtxError) as error:
        check_gate({"softmax": "vanilla", "gate": gate}, "linear")
    assert message in str(error.value)


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_wrong_logits_fail_floating_point(small_copy, capsys):
    path = small_copy / "expected.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "fp.logits.1": tensors["fp.logits.1"] * np.float32(1.0001)}, path)
    code, rows = run(capsys, small_copy)
    assert (code, [row["ok"] for row in rows]) == (1, [False, True])


@pytest.mark.slow
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
