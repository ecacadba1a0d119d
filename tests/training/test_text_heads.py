"""Losses and metrics of numbers and of labels against scikit-learn and SciPy; and runs from training to export."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, log_loss, mean_squared_error

from qtx.cli.main import main
from qtx.data import OBJECTIVES
from qtx.interop import load
from qtx.losses import Training
from qtx.training.evaluate import add_up

RNG = np.random.default_rng(0)
WEIGHTS = np.ones((3, 16), np.float32)
WEIGHTS[2, 9:] = 0  # padding of the last batch


def measured(objective, outputs, labels):
    loss = OBJECTIVES[objective].loss
    batches = [{"labels": y, "weights": w, "z": z} for y, w, z in zip(labels, WEIGHTS, outputs, strict=True)]
    found = add_up(lambda b: loss.measured(b["z"], b, 1), batches)
    sums = [loss(b["z"], b, Training({}, b)) for b in batches]
    total = float(sum(s.loss for s in sums) / sum(s.weight for s in sums))
    assert found["loss"] == pytest.approx(total, rel=1e-5) and found["predictions"] == WEIGHTS.sum()
    return found


def test_correlations_are_scipy_s():
    labels = RNG.integers(0, 6, (3, 16, 2)).astype(np.float32)  # with ties
    outputs = np.round(labels + RNG.normal(size=labels.shape), 1).astype(np.float32)
    found = measured("sequence_regression", outputs, labels)
    z, y = (x[WEIGHTS > 0] for x in (outputs.astype(np.float64), labels))
    assert found["loss"] == pytest.approx(mean_squared_error(y, z), rel=1e-6)
    assert found["correlation"] == pytest.approx(np.mean([pearsonr(z[:, k], y[:, k])[0] for k in (0, 1)]))
    assert found["rank_correlation"] == pytest.approx(np.mean([spearmanr(z[:, k], y[:, k])[0] for k in (0, 1)]))


def test_f1_and_loss_of_labels_are_scikit_learn_s():
    labels = (RNG.random((3, 16, 4)) < 0.3).astype(np.float32)
    labels[..., 3] = 0
    outputs = (3 * labels - 1.5 + RNG.normal(size=labels.shape)).astype(np.float32)
    outputs[..., 3] = -1  # a label that is not there and is never given
    found = measured("multi_label_classification", outputs, labels)
    z, y = (x[WEIGHTS > 0] for x in (outputs.astype(np.float64), labels))
    p = 1 / (1 + np.exp(-z))
    losses = [log_loss(y[:, k], p[:, k], labels=[0, 1]) for k in range(4)]
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["f1"] == pytest.approx(f1_score(y, z > 0, average="micro", zero_division=0))
    for k in range(3):
        assert found[f"f1/{k}"] == pytest.approx(f1_score(y[:, k], z[:, k] > 0))
    assert "f1/3" not in found


CONFIG = """
from qtx.experiment import default

def get_config(variant="softmax"):
    config = default("bert", variant)
    config.objective, config.model.head = {objective!r}, {head!r}
    config.model.update(dict(num_layers=1, width=32, num_heads=2, mlp_width=32, init_std=0.2, dropout=0.0))
    config.model.attention_dropout = 0.0
    config.data.update({data!r})
    config.data.sequence_length = 16
    config.data.held_out_fraction = 0.3
    config.training.update(dict(steps=300, batch_size=32, warmup_steps=10, learning_rate=3e-3))
    config.training.best_metric = {metric!r}
    config.quantization.calibration_batches = 2
    config.quantization.schemes = ("w8a8", "w2a2")
    config.mesh.data = 1
    return config
"""
WORDS = ("warm", "cold", "wet", "dry", "far", "near")
QUESTIONS = {"heat": ("warm", "cold"), "rain": ("wet", "dry")}
ENTITIES = {"warm": "B-HEAT", "wet": "B-RAIN", "dry": "I-RAIN"}


def labelled(label, count=1):
    """Writes texts, or pairs of texts, with what `label` makes of their words, as JSON lines."""

    def write(folder):
        rows = []
        for _ in range(400):
            texts = [RNG.choice(WORDS, 6).tolist() for _ in range(count)]
            named = dict(zip(("text", "other"), map(" ".join, texts), strict=False))
            rows.append(json.dumps({**named, "label": label(*texts)}))
        (folder / "texts.jsonl").write_text("\n".join(rows) + "\n")
        pair = {"text_pair_column": "other"} if count > 1 else {}
        return {"source": "text_labels", "files": (str(folder / "texts.jsonl"),), **pair}

    return write


def words_with_labels(folder):
    sentences = [RNG.choice(WORDS, int(RNG.integers(3, 12))).tolist() for _ in range(400)]
    lines = ["\n".join(f"{word} x {ENTITIES.get(word, 'O')}" for word in words) for words in sentences]
    (folder / "words.conll").write_text("-DOCSTART- x O\n\n" + "\n\n".join(lines) + "\n")
    return {"source": "token_labels", "files": (str(folder / "words.conll"),)}


def questions(folder):
    """Each text has one word that answers each question; most texts have several windows."""
    paragraphs = []
    for _ in range(300):
        words = RNG.choice(WORDS[4:], int(RNG.integers(6, 20))).tolist()
        places = RNG.choice(len(words), 2, replace=False)
        qas = []
        for place, answers in zip(places, QUESTIONS.values(), strict=True):
            words[place] = str(RNG.choice(answers))
        context = " ".join(words)
        for place, question in zip(places, QUESTIONS, strict=True):
            answer = {"text": words[place], "answer_start": context.index(words[place])}
            qas.append({"id": "x", "question": question, "answers": [answer]})
        paragraphs.append({"context": context, "qas": qas})
    (folder / "a.json").write_text(json.dumps({"data": [{"title": "x", "paragraphs": paragraphs}]}))
    return {"source": "questions", "files": (str(folder / "a.json"),)}


TASKS = {
    "numbers": ("sequence_regression", "regression", "correlation", labelled(lambda words: words.count("warm") / 2)),
    "labels": (
        *("multi_label_classification", "multi_label", "f1"),
        labelled(lambda words: [w for w in ("warm", "wet") if w in words]),
    ),
    # Which of the texts is the first, token types alone tell well.
    "pairs with scores": (
        *("sequence_regression", "regression", "correlation"),
        labelled(lambda one, other: one.count("warm") - other.count("warm"), count=2),
    ),
    "words": ("token_classification", "token_classification", "f1", words_with_labels),
    "questions": ("question_answering", "span", "f1", questions),
}
TOLD = {
    "numbers": "| rank correlation |",
    "labels": "| F1 of wet |",
    "pairs with scores": "| rank correlation |",
    "words": "| F1 of RAIN |",
    "questions": "| exact match |",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=[pytest.mark.long] * (task not in ("words", "questions"))) for task in TASKS]
)
def test_from_files_to_a_quantized_head_and_what_heals_it(task, tmp_path, capsys):
    """The labels are how many of the words are warm, or whether the text is warm, and wet; and so on."""
    objective, head, metric, write = TASKS[task]
    data = write(tmp_path)
    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *QUESTIONS)
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    data["tokenizer"] = str(tmp_path / "vocab.txt")
    (tmp_path / "config.py").write_text(CONFIG.format(objective=objective, head=head, data=data, metric=metric))
    run = f"--workdir={tmp_path}/run"
    assert main(["train", f"--config={tmp_path}/config.py", run]) == 0
    assert main(["quantize", run]) == 0
    assert main(["evaluate", run]) == 0
    told = capsys.readouterr().out
    assert {name: line in told for name, line in TOLD.items()} == {n: line == TOLD[task] for n, line in TOLD.items()}
    results = json.loads((tmp_path / "run/results.json").read_text())
    values = {m["scheme"]: m["values"] for m in results["measurements"]}
    assert results["metric"] == metric and values["w8a8"][metric] > 0.9 * values["fp"][metric] > 0.4
    assert values["w2a2"][metric] < values["w8a8"][metric]
    assert main(["export", run, "--format=huggingface"]) == 0
    config, _ = load(tmp_path / "run/export/huggingface")
    assert config.head == head
    # The trained model is a teacher in turn.
    pupil = [f"--config.start={tmp_path}/run", "--config.objective=distill", "--config.training.best_metric=fidelity"]
    steps = ["--config.training.steps=4", "--config.training.warmup_steps=1", f"--workdir={tmp_path}/pupil"]
    assert main(["train", f"--config={tmp_path}/config.py", *pupil, *steps]) == 0
    assert main(["evaluate", f"--workdir={tmp_path}/pupil"]) == 0
    (measured,) = json.loads((tmp_path / "pupil/results.json").read_text())["measurements"]
    assert measured["values"]["fidelity"] > 0.8
