"""The judge of exported models: somebody else's int8 suffers from an outlier, and bad input gets one line."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import qtx.judge
from qtx.builtin import builtin_checkpoint
from qtx.experiment import read
from qtx.judge.__main__ import main
from qtx.judge.verdicts import PACKAGES
from qtx.pages.healing import Stage, Story
from qtx.pipeline import judged
from qtx.pipeline.importing import config_of_checkpoint, found, import_run
from qtx.pipeline.patient import patient_config

LARGEST = 800.0
MISSING = [name for name in PACKAGES.split() if find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")


def write(folder, outlier, head="", **options):
    """A random encoder, or one with a head; with an `outlier` in one dimension of its feed-forward outputs that the
    next LayerNorm drops.

    An outlier alone would get the mean outlier / width and the deviation below; LayerNorm's bias and gain make up for
    them, so that the other dimensions come out about as they went in.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    width = 32
    config = transformers.BertConfig(
        vocab_size=1459,
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.2,
        **options,
    )
    model = getattr(transformers, f"Bert{head or 'Model'}")(config)
    output = (model.bert if head else model).encoder.layer[0].output
    with torch.no_grad():
        output.dense.bias[5] = outlier
        output.LayerNorm.weight[:] = outlier * (width - 1) ** 0.5 / width or 1.0
        output.LayerNorm.bias[:] = outlier / width
        output.LayerNorm.weight[5] = output.LayerNorm.bias[5] = 0.0
    model.save_pretrained(folder)
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(builtin_checkpoint("minilm-2l") / name, folder)
    return str(folder)


@needs_onnx
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning")
def test_int8_suffers_from_a_planted_outlier(tmp_path, capfd):
    folders = [write(tmp_path / "healthy", 0.0), write(tmp_path / "ill", LARGEST)]
    assert main(folders) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(line["folder"], line["weights"]) for line in lines] == [
        (folder, weights) for folder in folders for weights in ("per tensor", "per channel")
    ]
    for line in lines[:2]:
        assert line["int8_to_own_fp"] == line["int8_to_first_fp"] and line["fp_to_first_fp"] == 1
    # How its kernels round depends on the processor: .9977 to above .999 were seen.
    assert min(line["int8_to_own_fp"] for line in lines[:2]) > 0.99
    # A step of its grid, 800 / 255, is more than what the other dimensions hold.
    assert max(line["int8_to_own_fp"] for line in lines[2:]) < 0.9


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("head, classes", [("ForSequenceClassification", 1), ("ForQuestionAnswering", 2)])
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning")
def test_heads_are_judged_by_their_outputs(head, classes, tmp_path, capfd):
    folders = [write(tmp_path / name, x, head, num_labels=classes) for name, x in (("healthy", 0.0), ("ill", LARGEST))]
    assert main(folders) == 0
    healthy, _, ill, _ = (json.loads(line) for line in capfd.readouterr().out.splitlines())
    # A reranker's single output would have a cosine of 1 or -1, text by text.
    assert healthy["int8_to_own_fp"] == healthy["centred"] > 0.95 and 0.9 < ill["fp_to_first_fp"]
    assert ill["int8_to_first_fp"] < 0.9


def told(capsys, arguments):
    capsys.readouterr()  # transformers tells how far it is with writing
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def test_missing_packages_are_told_in_a_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)  # its import fails
    monkeypatch.delitem(sys.modules, "qtx.judge.quantizer", raising=False)
    monkeypatch.delattr(qtx.judge, "quantizer", raising=False)
    error = told(capsys, ["folder"])
    assert "judge: error: " in error and "onnx" in error and ": pip install torch transformers onnx " in error


@needs_onnx
def test_what_is_no_model_is_told_in_a_line(tmp_path, capsys):
    assert f"{tmp_path} has no config.json: expected a folder" in told(capsys, [str(tmp_path)])


@needs_onnx
def test_a_short_text_is_told_in_a_line(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("a " * 127)
    arguments = [write(tmp_path / "model", 0.0), f"--text={tmp_path / 'text.txt'}"]
    assert "the text has 1 blocks of 126 tokens, expected 128" in told(capsys, arguments)


@needs_onnx
def test_a_text_that_is_not_long_enough_for_all_gives_what_it_has(tmp_path):
    from qtx.judge import quantizer

    folder, prompt = Path(write(tmp_path / "model", 0.0)), np.zeros(0, np.int64)
    texts = {blocks: quantizer.cut(folder, "a t " * 63 * blocks, prompt) for blocks in (128, 140, 192, 300)}
    assert {blocks: tuple(map(len, parts)) for blocks, parts in texts.items()} == {
        **{128: (64, 64), 140: (64, 72), 192: (64, 128), 300: (64, 128)}
    }
    assert all(part.shape[1] == 128 for parts in texts.values() for part in parts)


@needs_onnx
def test_code_is_run_only_where_qtx_wrote_it(tmp_path):
    """A folder's config.json may name code of anybody's, here or on the Hub."""
    from qtx.judge import quantizer

    assert quantizer.trusted(tmp_path) == {"trust_remote_code": False}
    (tmp_path / "modeling_qtx.py").touch()
    assert quantizer.trusted(tmp_path) == {"trust_remote_code": True}


@needs_onnx
def test_another_tokenizer_is_told_in_a_line(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("a t " * 63 * 192)
    first, second = (write(tmp_path / name, 0.0) for name in ("first", "second"))
    tokenizer = json.loads((tmp_path / "second/tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["t"] = vocabulary["t"], vocabulary["a"]
    (tmp_path / "second/tokenizer.json").write_text(json.dumps(tokenizer))
    assert "has another tokenizer than" in told(capsys, [first, second, f"--text={tmp_path / 'text.txt'}"])


@needs_onnx
@pytest.mark.slow
def test_a_healing_is_judged_before_and_after_and_once(tmp_path, monkeypatch):
    """The healed model is one without the outlier, which computes about the same."""
    source, healed = found(write(tmp_path / "ill", LARGEST)), Path(write(tmp_path / "healthy", 0.0))
    original = tmp_path / "run" / "original"
    import_run(read(patient_config(config_of_checkpoint(source))), original, source)
    runs = [Stage(original, 0, None, 1.0, 0.5, LARGEST, 0.0), Stage(tmp_path, 30, 5.0, 0.9, 0.9, 1.0, 0.0)]
    story = Story("it", "BERT", "texts", "w8a8", runs, 1, "The end.", "qtx heal it")
    told = judged.judged(story, healed)
    assert not told.unjudged
    assert [(row.weights, row.texts) for row in told.judged] == [("per tensor", 128), ("per channel", 128)]
    assert all(row.before < 0.9 < row.after < 1 for row in told.judged)

    def asked(*args):
        raise AssertionError("the judge was asked again")

    monkeypatch.setattr(judged, "ask", asked)
    assert judged.judged(story, healed) == told
    (healed / "model.safetensors").write_bytes((tmp_path / "ill" / "model.safetensors").read_bytes())
    with pytest.raises(AssertionError, match="asked again"):
        judged.judged(story, healed)
