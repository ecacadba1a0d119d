"""The ten names of `import qtx`."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest

import qtx
from qtx import interop
from qtx.api import model as models
from qtx.api import names
from qtx.cli.main import main
from qtx.data import load_tokenizer
from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.models import BertConfig
from qtx.pipeline.run import load_run
from tests.training.test_labels import SHAPE, VOCABULARY

NAMES = {"load", "diagnose", "quantize", "heal", "encode", "export", "train", "evaluate", "compare", "report"}
WORDS = [word for word in VOCABULARY if word.isalpha()]
TEXTS = [" ".join(np.random.default_rng(seed).choice(WORDS, 40)) for seed in range(60)]
SMALL = {"training.batch_size": 8, "training.eval_batches": 2, "quantization.calibration_batches": 2, "mesh.data": 1}
PROMPT = f"{WORDS[0]} {WORDS[1]}"


def test_the_package_is_imported_without_jax():
    code = "import sys, qtx; assert 'jax' not in sys.modules and 'qtx.api' not in sys.modules; print(*qtx.__all__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) == NAMES <= set(dir(qtx))


def test_names_are_functions_and_no_others_are_there():
    assert all(getattr(qtx, name) is getattr(names, name) for name in NAMES)
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        qtx.laod  # noqa: B018


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A small sentence encoder with random weights and a prompt, and texts of its words."""
    folder, config = tmp_path_factory.mktemp("encoder"), BertConfig(**SHAPE, head="none")
    interop.save(folder, config, nn.unbox(jax.jit(build(config).init)(jax.random.key(0), config.example())["params"]))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    prompts = {"prompts": {"query": PROMPT, "none": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    (folder / "texts.txt").write_text("\n\n".join(TEXTS))
    return folder


@pytest.fixture(scope="module")
def model(encoder):
    files = {"data.source": "text_files", "data.files": (str(encoder / "texts.txt"),), "data.sequence_length": 8}
    return qtx.load(encoder, options={**SMALL, **files, "data.document_separator": r"\n\n"})


def test_embeddings_are_those_of_each_text_by_itself(encoder, model):
    config, params = interop.load(encoder)
    tokenizer, hidden_states = load_tokenizer(encoder), jax.jit(build(config).apply)
    texts = [TEXTS[0], "", WORDS[2]]

    def embedding(text):
        ids = [tokenizer.start, *tokenizer.encode([text])[0][: config.max_length - 2], tokenizer.end]
        with jax.default_matmul_precision("highest"):
            hidden = hidden_states({"params": params}, {"tokens": np.array([ids])})[0]
        mean = np.asarray(hidden, np.float64).mean(axis=0)
        return mean / np.linalg.norm(mean)

    expected = np.stack([embedding(PROMPT + text) for text in texts])
    np.testing.assert_allclose(model.encode(texts), expected, atol=1e-6)
    np.testing.assert_allclose(model.encode(texts[:1], prompt="none"), [embedding(texts[0])], atol=1e-6)


@pytest.mark.parametrize(
    "asked, told",
    {
        "no model": (lambda model: qtx.load("nowhere"), "no checkpoint nowhere"),
        "a run has a folder": (lambda model: qtx.load(model.run.workdir, workdir="x"), "leave workdir out"),
        "an option": (lambda model: qtx.load(model.run.workdir, options={"data.seqence_length": 8}), "sequence_length"),
        "a value": (lambda model: qtx.load(model.run.workdir, options={"seed": "x"}), "config.seed='x'"),
        "a way to quantize": (lambda model: model.quantize(methd="static"), "did you mean 'method'"),
        "bits of what is exempt": (lambda model: model.quantize(target=0.9, exempt_bits=8), "expected 16, or None"),
        "bits of nothing": (lambda model: model.quantize(exempt_bits=16), "give target too"),
        "an aim": (lambda model: model.heal(hour=1), "did you mean 'hours'"),
        "an aim's value": (lambda model: model.heal(hours=-1), "positive number"),
        "a format": (lambda model: model.export("x", format="tflite"), "unknown format 'tflite'"),
        "one text": (lambda model: model.encode("a text"), "expected a list of texts"),
        "a prompt": (lambda model: model.encode(["a"], prompt="querry"), "did you mean 'query'"),
    }.values(),
)
def test_bad_input_is_one_line(model, asked, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QtxError, match=told) as refused:
        asked(model)
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_model_that_was_trained_makes_no_embedding_and_is_healed():
    model = qtx.train("demo:softmax:smoke", options={"training.steps": 4, "mesh.data": 1})
    with pytest.raises(QtxError, match="makes no embeddings of texts"):
        model.encode(["a text"])
    original, stage = model.heal(steps=30, force=True).story.runs
    assert original.floating == pytest.approx(1) and stage.steps == 30


@pytest.mark.slow
def test_temporary_folders_go_with_the_last_model_that_needs_them(encoder):
    model = qtx.load(encoder, texts=TEXTS, options={**SMALL, "data.sequence_length": 8})
    quantized, folder = model.quantize(), model.run.workdir.parent
    del model
    assert folder.is_dir() and 0.9 < quantized.metrics["fidelity"] < 1
    assert quantized.encode(["a"]).shape == (1, SHAPE["width"])
    del quantized
    assert not folder.exists()


@pytest.mark.slow
def test_a_healing_is_resumed_and_exported(encoder, tmp_path, capsys):
    def healed(texts=TEXTS):
        model = qtx.load(encoder, texts=texts, options={**SMALL, "data.sequence_length": 8})
        return model.heal(texts, workdir=tmp_path / "healing", steps=30, force=True)

    first = healed()
    log = tmp_path / "healing" / "stage_1" / "metrics.jsonl"
    earlier = log.read_bytes()
    again = healed()
    assert log.read_bytes() == earlier
    for one in (first, again):
        assert one.story.chosen in (0, 1) and "its fidelity went from" in str(one)
    np.testing.assert_array_equal(first.encode(TEXTS), again.encode(TEXTS))
    with pytest.raises(QtxError, match="begun with other texts"):
        healed(TEXTS[:50])
    out = again.export(tmp_path / "out")
    assert "names, types and tokenizer" in capsys.readouterr().out
    assert (out / "README.md").exists() == bool(again.story.chosen)
    config, params = interop.load(out)
    assert config == interop.load(encoder)[0]
    jax.tree.map(np.testing.assert_array_equal, params, nn.unbox(again.run.floating_point))
    assert (out / "healing.html").exists() == bool(again.story.chosen)
    # A run is healed too, on its own texts, and from the command line.
    flags = [f"--out={tmp_path / 'more'}", "--steps=30", "--force"]
    assert main(["heal", str(tmp_path / "healing" / "stage_1"), *flags]) == 0
    experiment = load_run(tmp_path / "more" / "run" / "original").assembled.experiment
    assert experiment.data.source.corpora == first.run.assembled.experiment.data.source.corpora


@pytest.mark.slow
def test_integers_are_evaluated_from_their_folder(model, tmp_path):
    quantized = model.quantize("w8a8")
    found = qtx.evaluate(quantized.export(tmp_path / "int8"))
    assert found["fidelity"] == pytest.approx(quantized.metrics["fidelity"], abs=1e-3)


@pytest.mark.long
def test_the_examples_in_docstrings_are_true(tmp_path):
    options = {**SMALL, "data.sequence_length": 32, "quantization.calibration_batches": 4}
    model = qtx.load("builtin:minilm-2l", options=options)
    given = {"qtx": qtx, "model": model, "folder": tmp_path / "exported"}
    runner, finder = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), doctest.DocTestFinder(exclude_empty=True)
    tests = [test for module in (names, models) for test in finder.find(module, globs=given) if test.examples]
    assert {test.name.rpartition(".")[2] for test in tests} > {"load", "diagnose", "quantize", "heal", "encode"}
    told = []
    for test in tests:
        test.globs.update(given)
        runner.run(test, out=told.append)
    assert not runner.failures, "".join(told)


@pytest.mark.long
def test_a_comparison_shows_itself(tmp_path):
    options = {"compare.variants": ("softmax", "gated_linear"), "training.steps": 4, "mesh.data": 1}
    found = qtx.compare("demo:smoke", tmp_path, options)
    assert [result["variant"] for result in found.results] == ["softmax", "gated_linear"]
    assert "gated_linear" in repr(found) and found._repr_html_().startswith("<iframe srcdoc=")
    assert repr(qtx.report(tmp_path)) == repr(found)
