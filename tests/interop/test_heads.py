"""What the outputs of a head of whole texts mean: as config.json says, or as transformers guesses, there and back."""

from __future__ import annotations

import json
from functools import cache

import flax.linen as nn
import jax
import numpy as np
import pytest

from qtx.data import OBJECTIVES
from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.interop import load, save
from qtx.losses import Training
from qtx.models import BertConfig
from qtx.pipeline.importing import check_model, objective_of

PROBLEM, SINGLE, MULTI = "problem_type", "single_label_classification", "multi_label_classification"
SHAPE = dict(num_layers=1, width=8, num_heads=2, mlp_width=8, vocab_size=9, max_length=4)


# What a config tells a kind by, and the class of its head.
OF_KIND = {
    "Bert": {},
    "DistilBert": {"type_vocab_size": 0, "pooler_activation": "relu"},
    "Electra": {"embedding_width": 4, "pooler_activation": "gelu"},
}


@cache
def model(outputs, kind="Bert"):
    config = BertConfig(**SHAPE, **OF_KIND[kind], head="classification", num_classes=outputs)
    return config, nn.unbox(jax.jit(build(config).init)(jax.random.key(0), config.example())["params"])


def folder_of(root, outputs, kind="Bert", **values):
    """A checkpoint as others write it, with these further keys in its config.json."""
    save(root, *model(outputs, kind))
    written = json.loads((root / "config.json").read_text())
    written.pop(PROBLEM, None)
    (root / "config.json").write_text(json.dumps({**written, **values}))
    return root


# Outputs, problem type and what it is.
HEADS = [
    (1, None, "regression"),
    (1, "regression", "regression"),
    (1, SINGLE, "regression"),  # softmax over one class is 1, whatever the logit
    (1, MULTI, "multi_label"),
    (3, None, "classification"),
    (3, SINGLE, "classification"),
    (3, "regression", "regression"),
    (3, MULTI, "multi_label"),
]


@pytest.mark.representative("Bert-told-*", "Electra-told-3-multi*")
@pytest.mark.parametrize(("outputs", "problem", "head"), HEADS)
@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
@pytest.mark.parametrize("kind", OF_KIND)
def test_a_head_is_what_config_json_says_and_is_given_back(tmp_path, outputs, problem, head, told, kind):
    architectures = [f"{kind}ForSequenceClassification"] if told else None
    original = folder_of(tmp_path / "original", outputs, kind, problem_type=problem, architectures=architectures)
    config, params = load(original)
    assert (config.head, config.num_classes, objective_of(config)) == (head, outputs, "distill")
    save(tmp_path / "as_it_was", config, params, original=original)
    kept = json.loads((tmp_path / "as_it_was/config.json").read_text())
    assert (kept[PROBLEM], kept["architectures"]) == (problem, architectures)
    # Without the original too, whatever transformers would take the number of outputs for.
    save(tmp_path / "anew", config, params)
    anew = json.loads((tmp_path / "anew/config.json").read_text())
    assert anew["architectures"] == [f"{kind}ForSequenceClassification"] and len(anew["id2label"]) == outputs
    assert load(tmp_path / "anew")[0] == config
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "anew")[1], params)


def test_a_problem_type_that_there_is_not(tmp_path):
    with pytest.raises(QtxError, match=r"problem_type in .*config.json: 'ranking'.*expected|unknown problem_type"):
        load(folder_of(tmp_path, 3, problem_type="ranking"))


def test_who_knows_the_meaning_of_the_outputs_is_told_where_to_say_it():
    there = BertConfig(**SHAPE, head="classification", num_classes=3)
    for head, remedy in (("multi_label", "problem_type"), ("none", "to change it, train from the checkpoint's run")):
        with pytest.raises(QtxError, match=f"config.model.head is not what .*'classification': .*{remedy}"):
            check_model(BertConfig(**SHAPE, head=head, num_classes=3), there)


@pytest.mark.parametrize(("head", "loss"), [("regression", "mse"), ("multi_label", "bce")])
def test_transformers_reads_the_head_as_what_it_is(tmp_path, head, loss):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    _, params = model(3)
    save(tmp_path, BertConfig(**SHAPE, head=head, num_classes=3), params)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokens, labels = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    found = theirs(input_ids=tokens, labels=labels)
    logits = found.logits.detach().numpy()
    z, y = logits.astype(np.float64), labels.numpy()
    expected = {"mse": np.square(z - y).mean(), "bce": (np.log1p(np.exp(z)) - y * z).mean()}[loss]
    assert float(found.loss.detach()) == pytest.approx(expected, rel=1e-5)
    # The very loss that qtx trains on.
    objective = {"mse": "sequence_regression", "bce": MULTI}[loss]
    batch = {"labels": labels.numpy(), "weights": np.ones(2, np.float32)}
    sums = OBJECTIVES[objective].loss(logits, batch, Training({}, batch))
    assert float(sums.loss / sums.weight) == pytest.approx(expected, rel=1e-5)
