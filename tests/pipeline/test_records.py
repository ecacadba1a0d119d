"""What a run's folder records: every option at its value, the rules of its recipe, and all that was measured of it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from qtx.cli.flags import load_config_file
from qtx.cli.main import main
from qtx.data import OBJECTIVES, VOCABULARIES
from qtx.experiment import from_record, read, record
from qtx.foundation.config import flattened
from qtx.foundation.storage import sealed_json

NANO = str(Path(__file__).parents[1] / "nano_config.py")
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))
# Options whose None is a value, and not a default that could be another: what it means.
MEANS_NONE = {
    "training.clip_norm": "no clipping",
    "training.clip_weights": "no limit",
    "qat.noise_limit": "no limit",
    "training.eval_batches": "all held-out batches",
    "model.embedding_width": "the model's width",
    "model.num_kv_heads": "one for each head",
    "model.head_dim": "the width, divided by the heads",
    "model.score_dim": "the size of a head",
    "model.score_cap": "no bound",
    "model.logit_cap": "no bound",
    "model.embedding_scale": "1",
    "model.window": "no window",
    "model.local_base": "as everywhere",
    "model.attention.gamma": "by alpha",
    "data.validation_files": "a share of the documents",
    "data.validation_corpora": "a share of the documents",
    "data.document_separator": "files are whole",
    "data.weights": "in proportion to sizes",
    "data.files": "a random chain",
    "data.classes": "the labels that the training texts have",
    "data.min_length": "all of one length",
    "data.prompt": "no prompt",
    "data.text_pair_column": "texts, no pairs",
    "data.mask_probability": "of an objective that masks nothing",
    "data.image_size": "as the images are",
    "data.channels": "as the images are",
    "data.crop_ratio": "all of the shorter side",
    "data.crop_mode": "the middle, if the size is another",
    "data.mean": "by the images' channels",
    "data.std": "by the images' channels",
}


def flat(values: dict, prefix: str = "") -> dict:
    found = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


@pytest.mark.representative("*-clipped_softmax", "demo-*", "vit_s16-*")
@pytest.mark.parametrize("variant", ["softmax", "clipped_softmax", "gated_mlp"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_option_has_its_value(path, variant):
    """None are what does not apply to the chosen source, normalizer and gate; what only data tell; and values."""
    experiment = read(load_config_file(f"{path}:{variant}"))
    data = flattened(experiment.data.source)
    applying = {f"data.{option}" for option in (*data, "source")}
    if experiment.objective == "clm":
        applying.discard("data.mask_probability")
    if data.get("tokenizer") not in (None, *VOCABULARIES):
        applying.discard("data.vocab_size")
    if data.get("validation_files") or data.get("validation_corpora"):
        applying.discard("data.held_out_fraction")
    told = ("vocab_size", "image_size", "channels", "num_classes", "attention.length")
    told_by_data = {f"model.{name}" for name in told}
    attention = {"clipped_softmax": {"gamma", "zeta", "alpha", "gamma_warmup_steps", "length"}}.get(variant, set())
    attention |= {"gate_pi", "gate_scale", "gate_hidden"} if variant == "gated_mlp" else set()
    for key, value in flat(record(experiment)).items():
        applies = key in applying if key.startswith("data.") else True
        if key.startswith("model.attention."):
            applies = key.removeprefix("model.attention.") in attention | {"normalizer", "gate"}
        if value is None:
            assert not applies or key in MEANS_NONE or key in told_by_data, key


def test_a_default_that_changes_does_not_change_a_run(monkeypatch):
    kept = record(read(load_config_file(str(CONFIGS[0].parent / "demo.py"))))
    monkeypatch.setattr(type(OBJECTIVES["clm"]), "tokenizer", "wordpiece")
    monkeypatch.setattr("qtx.data.sources.stdlib.Stdlib.held_out_fraction", 0.5)
    assert kept["data"]["tokenizer"] == "bpe" and kept["data"]["held_out_fraction"] == 0.05
    assert record(read(from_record(kept, "a record"))) == kept


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a finished run."""
    workdir = tmp_path_factory.mktemp("records") / "run"
    assert main(["train", f"--config={NANO}", f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture
def run(trained, tmp_path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.slow
@pytest.mark.parametrize(
    "override", ["model.vocab_size=16", "model.embedding_width=8", "data.num_triggers=3", "data.chain_seed=0"]
)
def test_naming_a_default_names_the_same_run(override, run, capsys):
    there = json.loads((run / "config.json").read_text())
    assert there["model"]["vocab_size"] == 16 and there["data"]["num_triggers"] == 3
    for command in (["train", f"--config={NANO}"], ["evaluate"]):
        assert main([*command, f"--workdir={run}", f"--config.{override}"]) == 0
    other = override.replace("=", "=1")
    assert main(["train", f"--config={NANO}", f"--workdir={run}", f"--config.{other}"]) == 2
    assert override.partition("=")[0] in capsys.readouterr().err


def unsealed(values: dict) -> dict:
    return {name: value for name, value in values.items() if name != "checksum"}


def measured(run: Path) -> list[dict]:
    return json.loads((run / "results.json").read_text())["measurements"]


@pytest.mark.slow
def test_results_accumulate(run):
    """Each says what it is of; the same measured again takes its place, and nothing else goes."""

    def said() -> list[tuple]:
        return [(m["scheme"], m["checkpoint"], m.get("method"), m.get("ranges")) for m in measured(run)]

    assert main(["quantize", f"--workdir={run}", "--scheme=w8a8"]) == 0
    expected = [("fp", 4, None, None), ("w8a8", 4, "static", "calibrated")]
    assert said() == expected
    before = measured(run)
    assert main(["evaluate", f"--workdir={run}"]) == 0
    assert said() == expected
    assert [m["values"]["perplexity"] for m in measured(run)] == [m["values"]["perplexity"] for m in before]
    assert main(["evaluate", f"--workdir={run}", "--checkpoint=2"]) == 0
    assert main(["quantize", f"--workdir={run}", "--scheme=w8a8", "--method=per_token"]) == 0
    assert said() == [*expected, ("fp", 2, None, None), ("w8a8", 4, "per_token", "calibrated")]
    assert main(["quantize", f"--workdir={run}", "--scheme=w8a8", "--config.quantization.calibration_batches=1"]) == 0
    options = [m["options"]["calibration_batches"] for m in measured(run) if m["scheme"] == "w8a8"]
    assert options == [2, 2, 1]


@pytest.mark.slow
def test_an_evaluation_keeps_the_histograms_of_the_quantized_model(run):
    from qtx.analysis import load_analysis

    assert main(["quantize", f"--workdir={run}", "--scheme=w4a4"]) == 0
    kept = load_analysis(run / "analysis.npz").quantized_histograms
    assert kept
    assert main(["evaluate", f"--workdir={run}"]) == 0
    after = load_analysis(run / "analysis.npz").quantized_histograms
    assert after.keys() == kept.keys() and all((after[name] == kept[name]).all() for name in kept)
    assert main(["evaluate", f"--workdir={run}", "--checkpoint=2"]) == 0
    assert not load_analysis(run / "analysis.npz").quantized_histograms  # those were of another checkpoint


RECIPE = """
from pathlib import Path
from qtx.quantization import Recipe, Rule

def careful(model, weight, activation):
    with (Path(__file__).parent / "ran").open("a") as file:
        file.write("x")
    weights = (Rule("*bias", None), Rule("*/scale", weight), Rule("*", weight))
    return Recipe(weights, (Rule("head/*", None), Rule("layers/mlp/*", None), Rule("*", activation)))
"""


@pytest.fixture
def careful(tmp_path) -> tuple[Path, str, Path]:
    """A run trained under a recipe of the user's own; its flag; and the file in which each run of it leaves a mark."""
    (tmp_path / "recipe.py").write_text(RECIPE)
    flag = f"--config.quantization.recipe={tmp_path}/recipe.py:careful"
    assert main(["train", f"--config={NANO}", f"--workdir={tmp_path}/run", flag]) == 0
    return tmp_path / "run", flag, tmp_path / "ran"


@pytest.mark.slow
def test_a_folder_runs_no_code(careful, capsys):
    """What the recipe said is recorded as data; its file runs only where the command line names it."""
    run, flag, ran = careful
    marks = ran.read_text()
    assert main(["quantize", f"--workdir={run}", "--scheme=w8a8"]) == 0
    assert main(["evaluate", f"--workdir={run}"]) == 0
    assert main(["export", f"--workdir={run}", "--format=int8", "--scheme=w8a8"]) == 0
    assert main(["evaluate", f"--workdir={run}/export/int8"]) == 0
    assert ran.read_text() == marks
    recorded = measured(run)[1]["values"]
    assert main(["quantize", f"--workdir={run}", "--scheme=w8a8", flag]) == 0
    assert ran.read_text() != marks
    assert [m["values"] for m in measured(run) if m["scheme"] == "w8a8"] == [recorded] * 2

    marks = ran.read_text()
    for arguments, message in (
        (["--scheme=w3a8"], "has no rules for w3a8, only for w8a8, w4a4"),
        (
            ["--scheme=w8a8", "--config.quantization.activation_estimator=running_minmax,percentile=99.9"],
            "under other options of config.quantization",
        ),
    ):
        capsys.readouterr()
        assert main(["quantize", f"--workdir={run}", *arguments]) == 2
        err = capsys.readouterr().err
        assert message in err and "--config.quantization.recipe=FILE.py:FUNCTION" in err and err.count("\n") == 1
    assert ran.read_text() == marks
    assert main(["quantize", f"--workdir={run}", "--scheme=w3a8", flag]) == 0
    assert main(["quantize", f"--workdir={run}", "--scheme=w3a8"]) == 0
    assert main(["quantize", f"--workdir={run}", "--scheme=w8a8"]) == 0


@pytest.mark.slow
def test_code_that_a_folder_names_does_not_run(run, tmp_path, capsys):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef recipe(*_): pass\n")
    config = json.loads((run / "config.json").read_text())
    config["quantization"]["recipe"] = f"{tmp_path}/evil.py:recipe"
    (run / "config.json").write_bytes(sealed_json(unsealed(config)))
    for command in (["evaluate"], ["quantize"], ["sensitivity"], ["export", "--format=int8"]):
        assert main([*command, f"--workdir={run}"]) == 2
        err = capsys.readouterr().err
        assert "recipe.json is not there: name the recipe on this command line" in err and err.count("\n") == 1
    assert not (tmp_path / "ran").exists()
    assert main(["evaluate", f"--workdir={run}", "--config.quantization.recipe=paper_opt"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        *(b"{", b"[]", b"[" * 100_000, {"w8a8": 3}, {"w8a8": {"of": [], "recipe": {}}}),
        *({"w8a8": {"of": [], "recipe": {"is": "Popen", "args": "ls"}}}, {"w8a8": {"of": [], "recipe": []}}),
    ],
)
def test_a_damaged_recipe_is_one_line(content, careful, capsys):
    run, _, _ = careful
    (run / "recipe.json").write_bytes(content if isinstance(content, bytes) else sealed_json(content))
    assert main(["quantize", f"--workdir={run}", "--scheme=w8a8"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("qtx: error: ") and err.count("\n") == 1 and "recipe.json" in err


@pytest.mark.parametrize("recipe", ["paper_opt", "strict"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation_granularity": "group,num_groups=2", "weight_granularity": "input_group,size=4"},
        {"activation_estimator": "running_minmax,percentile=99.9"},
    ],
)
def test_recorded_rules_are_those_of_the_recipe(recipe, options, tmp_path):
    from qtx.quantization.recipes.recorded import as_data

    experiment = read(load_config_file(NANO))
    config = dataclasses.replace(experiment.quantization, recipe=recipe, weight_estimator="auto", **options)
    schemes = ("w8a8", "w4a4")
    entries = {s: as_data(config.make_recipe(s, experiment.model), *config.quantizers(s)) for s in schemes}
    (tmp_path / "rules.json").write_bytes(sealed_json(entries))
    again = dataclasses.replace(config, recipe=f"{tmp_path}/rules.json")
    for scheme in schemes:
        assert again.make_recipe(scheme, experiment.model) == config.make_recipe(scheme, experiment.model)
