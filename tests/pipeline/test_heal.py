"""`qtx heal`: from a checkpoint that integers ruin to one that they do not."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx import interop
from qtx.analysis import Analysis
from qtx.anatomy import read
from qtx.builtin import builtin_checkpoint
from qtx.cli.main import main
from qtx.experiment import default
from qtx.experiment import read as read_config
from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.models import BertConfig
from qtx.pages.healing import Judged, Stage, Story, model_card
from qtx.pages.healing_page import healing_page
from qtx.pipeline.heal import FIRST_STAGE, Aim, weight_limit, what_next
from qtx.pipeline.healed import licence_of
from qtx.pipeline.judged import ask
from qtx.quantization.plan import flatten as leaves
from qtx.training.optimizer import limited

PATIENT = builtin_checkpoint("minilm-2l")
SHORT = ["--config.data.sequence_length=32", "--config.mesh.data=1", "--config.training.eval_batches=4"]
SHORT += ["--config.quantization.calibration_batches=4"]


def stage(steps, quantized, seconds=0.0):
    return Stage(Path("x"), steps, None, 1.0, quantized, 9.0, seconds)


@pytest.mark.parametrize(
    "stages, aim, expected",
    {
        "left alone": ([stage(0, 0.99)], Aim(), "left alone"),
        "forced": ([stage(0, 0.99)], Aim(force=True), FIRST_STAGE),
        "the first": ([stage(0, 0.8)], Aim(), FIRST_STAGE),
        "asked for": ([stage(0, 0.8)], Aim(steps=77), 77),
        "asked for and done": ([stage(0, 0.8), stage(77, 0.9)], Aim(steps=77), "77 updates, which were too few"),
        "as many again": ([stage(0, 0.8), stage(180, 0.9, 600), stage(180, 0.93, 600)], Aim(), 360),
        "the target is reached": ([stage(0, 0.8), stage(180, 0.985)], Aim(), "It has the 0.98"),
        "a plateau": ([stage(0, 0.8), stage(180, 0.95), stage(180, 0.951)], Aim(), "added less than"),
        # An hour is 3600 s, of which 100 went into measuring and 1800 into 180 updates, 10 s each: 1700 s are left.
        "what the time allows": ([stage(0, 0.8, 100), stage(180, 0.9, 1800)], Aim(hours=1), 170),
        "the time is up": ([stage(0, 0.8, 100), stage(180, 0.9, 3300)], Aim(hours=1), "its time of 1 h was up"),
    }.values(),
)
def test_how_long_the_next_stage_is(stages, aim, expected):
    found = what_next(stages, aim)
    assert found == expected if isinstance(expected, int) else expected in found


@pytest.mark.parametrize(
    "options, told",
    [
        ({"bits": "w8"}, "w8"),
        ({"target": 1.0}, "between 0 and 1"),
        ({"steps": 3}, "30 or more"),
        ({"hours": float("nan")}, "positive"),
        ({"attention": "softmaxx"}, "softmax"),
    ],
)
def test_aims_that_cannot_be_are_refused(options, told):
    with pytest.raises(QtxError, match=told):
        Aim(**options)


@pytest.mark.parametrize("reached, expected", [(50.0, 35.0), (18.0, 12.0), (6.0, 5.0), (5.0, 5.0)])
def test_each_stage_has_a_lower_limit_than_the_one_before_down_to_the_lowest(reached, expected):
    config = default("bert")
    config.training.clip_weights = reached
    before = SimpleNamespace(assembled=SimpleNamespace(experiment=read_config(config)), floating_point=None)
    assert weight_limit(before) == expected


@pytest.mark.slow
def test_weights_beyond_a_limit_are_clipped_layer_by_layer():
    config = BertConfig(num_layers=2, width=8, num_heads=2, mlp_width=16, vocab_size=11, max_length=8)
    module = build(config)
    shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), config.example())["params"])
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    kernel, bias = params["layers"]["mlp"]["out"]["kernel"], params["layers"]["mlp"]["out"]["bias"]
    kernel[0, 3, 4] = bias[0, 2] = 100.0
    found = limited(params, 2.0, read(module, config.example()).parameters)["layers"]["mlp"]["out"]
    bounds = [2 * np.sqrt(np.mean(np.square(layer.astype(np.float64)))) for layer in kernel]
    assert bounds[0] > 2 * bounds[1]
    for layer, bound, clipped in zip(kernel, bounds, found["kernel"], strict=True):
        np.testing.assert_allclose(clipped, np.clip(layer, -bound, bound), rtol=1e-6)
    np.testing.assert_array_equal(found["bias"], bias)


def test_the_card_has_the_originals_licence_and_what_was_measured(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nlanguage: en\nlicense: apache-2.0\ntags:\n- x\n---\n# It\nlicense: none\n"
    )
    assert licence_of(tmp_path) == "apache-2.0" and licence_of(tmp_path / "nowhere") is None
    runs = [stage(0, 0.27), dataclasses.replace(stage(180, 0.955), limit=5.0, floating=0.99)]
    card = model_card(Story("it", "BERT", "texts", "w8a8", runs, 1, "The end.", "qtx heal it --out=x"), "apache-2.0")
    metadata = card.split("---\n")[1]
    assert metadata.splitlines()[0] == "license: apache-2.0"
    for part in (
        "0.270 to 0.955",
        "it is 0.990",
        "| stage 1 | 180 | 5 rms | 0.990 | 0.955 | 9.0",
        "qtx heal it --out=x",
    ):
        assert part in card


def test_the_card_and_the_page_have_what_onnxruntime_says_or_why_it_says_nothing(tmp_path):
    story = Story("it", "BERT", "texts", "w8a8", [stage(0, 0.27), stage(180, 0.955)], 1, "The end.", "qtx heal it")
    rows = [Judged("per tensor", 0.268, 0.941, 112), Judged("per channel", 0.284, 0.943, 112)]
    judged = dataclasses.replace(story, judged=rows)
    card = model_card(judged, None)
    assert "| weights per tensor | 0.268 | 0.941 |" in card and "| weights per channel | 0.284 | 0.943 |" in card
    assert "on 112 texts of 128 tokens" in card
    nothing = Analysis(**{field.name: {} for field in dataclasses.fields(Analysis)})
    shown = healing_page(judged, nothing, nothing)
    assert all(text in shown for text in ("weights per channel", "0.284", "0.943", "on 112 texts of 128 tokens"))
    why = dataclasses.replace(story, unjudged="No module named 'onnx': pip install torch")
    for text in (model_card(why, None), html.unescape(healing_page(why, nothing, nothing))):
        assert "ONNX Runtime's quantizer was not asked: No module named 'onnx': pip install torch." in text
    for text in (model_card(story, None), healing_page(story, nothing, nothing)):
        assert "ONNX" not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, told",
    [
        (BertConfig(), "it is asked about sentence encoders, and about heads"),
        (BertConfig(head="none"), "pip install|has no config.json"),
    ],
)
def test_what_keeps_the_judge_from_a_verdict_is_told(config, told, tmp_path):
    verdicts, problem = ask(config, tmp_path)
    assert verdicts == [] and re.search(told, problem)


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--steps=many"], "--steps=many: expected a whole number"),
        (["--target=2"], "between 0 and 1"),
        (["--data=nowhere/*.txt"], "nowhere"),
        (["--out={here}"], "holds no healing"),
    ],
)
def test_bad_input_is_one_line(arguments, told, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    flags = ["--out={here}/out", *(argument.format(here=tmp_path) for argument in arguments)]
    flags = [flag.format(here=tmp_path) for flag in flags]
    assert main(["heal", "builtin:minilm-2l", *flags]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.long
def test_a_model_that_integers_ruin_is_healed_and_one_that_they_do_not_is_left_alone(tmp_path, capsys):
    healed = ["heal", "builtin:minilm-2l", f"--out={tmp_path}/healed", "--steps=30", *SHORT]
    assert main(healed) == 0
    told = capsys.readouterr().out
    results = {
        name: {one["scheme"]: one["values"] for one in json.loads(file.read_text())["measurements"]}
        for name in ("original", "stage_1")
        for file in [tmp_path / "healed" / "run" / name / "results.json"]
    }
    before, after = results["original"], results["stage_1"]
    assert before["w8a8"]["fidelity"] < 0.96 and before["fp"]["max_inf_norm"] > 100
    assert after["w8a8"]["fidelity"] > 0.98 and after["fp"]["fidelity"] > 0.98
    assert f"{after['w8a8']['fidelity']:.3f}" in told
    config, params = interop.load(tmp_path / "healed")
    original, were = interop.load(PATIENT)
    assert config == original
    ours = leaves(params)
    assert ours.keys() == leaves(were).keys()
    kernel = ours["layers/mlp/out/kernel"]
    assert np.abs(kernel).max() < 0.6 * np.abs(leaves(were)["layers/mlp/out/kernel"]).max()
    card = (tmp_path / "healed" / "README.md").read_text()
    assert f"qtx heal builtin:minilm-2l --out={tmp_path}/healed --steps=30 --config.data.sequence_length=32" in card
    page = (tmp_path / "healed" / "healing.html").read_text()
    assert "as it came" in page and "<svg" in page
    # The same command again has nothing left to do; for other bits it needs another folder.
    log = tmp_path / "healed" / "run" / "stage_1" / "metrics.jsonl"
    earlier = log.read_bytes()
    assert main(healed) == 0 and log.read_bytes() == earlier
    capsys.readouterr()
    assert main([*healed, "--bits=w6a6"]) == 2

    well = BertConfig(
        num_layers=1, width=16, num_heads=2, mlp_width=32, vocab_size=original.vocab_size, max_length=64, head="none"
    )
    params = nn.unbox(build(well).init(jax.random.key(0), well.example())["params"])
    interop.save(tmp_path / "well", well, jax.tree.map(jnp.asarray, params))
    shutil.copy(PATIENT / "vocab.txt", tmp_path / "well")
    capsys.readouterr()
    assert main(["heal", str(tmp_path / "well"), f"--out={tmp_path}/left", *SHORT]) == 0
    assert "left alone" in capsys.readouterr().out
    assert not (tmp_path / "left" / "config.json").exists()
