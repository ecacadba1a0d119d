"""No measure is blind: outputs that are constant, of other texts, or of the wrong sign are far from the perfect one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments import healing
from qtx.data import OBJECTIVES
from qtx.judge.verdicts import centred_cosine
from qtx.losses.answers import Answers
from qtx.losses.choices import Choices
from qtx.losses.divergences import HIDDEN, LOGITS
from qtx.models import BertConfig, OptConfig, VitConfig
from qtx.training.evaluate import add_up

N, T, C, D = 48, 6, 4, 16
"""Texts, in batches of 16 of which the last is half padding; tokens; classes; features."""
RNG = np.random.default_rng(0)
OF_TEXTS = RNG.integers(0, C, N).astype(np.int32)
OF_TOKENS = RNG.integers(0, C, (N, T)).astype(np.int32)
NUMBERS = RNG.normal(size=(N, 2)).astype(np.float32)
LABELS = (RNG.random((N, C)) < 0.5).astype(np.float32)
SCORES = (3 + 0.2 * RNG.normal(size=(N, 1))).astype(np.float32)  # of one sign, as of any scorer on similar texts
SPANS = np.sort(RNG.integers(0, T, (N, 2)), axis=1).astype(np.int32)
ENDS = (20 * RNG.normal(size=(N, 1, 2)) + RNG.normal(size=(N, T, 2))).astype(np.float32)  # far from 0, text by text
# Nearly all of it is the same in every text, and in every token.
EMBEDDINGS = (5 + RNG.normal(size=(N, 1, D)) + 0.1 * RNG.normal(size=(N, T, D))).astype(np.float32)


def one_hot(labels):
    return (8 * (labels[..., None] == np.arange(C)) - 2).astype(np.float32)


WORDS = [f"w{i}" for i in range(T)]
OFFSETS = np.array([[3 * i, 3 * i + 2] for i in range(T)])
# The first of four choices is right, and the one that a right model knows.
CHOSEN = ((OF_TOKENS + np.arange(N)[:, None] % 4) % C).astype(np.int32)
DATA = SimpleNamespace(
    choices=Choices("digest", np.arange(N) // 4, np.arange(N) % 4 == 0, np.full(N, 3)),
    classes=("O", "B-X", "I-X", "B-Y"),
    answers=Answers(
        *("digest", False, [[" ".join(WORDS[first : last + 1])] for first, last in SPANS]),
        *([" ".join(WORDS)] * N, [OFFSETS] * N, np.stack([np.arange(N), np.zeros(N, int)], axis=1)),
    ),
)
BERT = BertConfig(vocab_size=C)


def bert(head, outputs=None):
    return dataclasses.replace(BERT, head=head, num_classes=outputs)


@dataclasses.dataclass(frozen=True)
class Case:
    """The outputs of a model that is right, and what it is measured by.

    Attributes:
      objective, config: which give the loss.
      right: its outputs.
      targets: of the batch, that they are compared with.
      perfect: metric to its perfect value.
    """

    objective: str
    config: Any
    right: np.ndarray
    targets: dict[str, np.ndarray]
    perfect: dict[str, float]


FIDELITY = {"fidelity": 1.0, "loss": 0.0}
CASES = {
    "tokens": Case("clm", OptConfig(), one_hot(OF_TOKENS), {"labels": OF_TOKENS}, {"perplexity": 1.0, "accuracy": 1.0}),
    "masked tokens": Case("mlm", BERT, one_hot(OF_TOKENS), {"labels": OF_TOKENS}, {"perplexity": 1.0, "accuracy": 1.0}),
    "images": Case("classification", VitConfig(), one_hot(OF_TEXTS), {"labels": OF_TEXTS}, {"accuracy": 1.0}),
    "classes": Case(
        "sequence_classification",
        bert("classification", C),
        one_hot(OF_TEXTS),
        {"labels": OF_TEXTS},
        {"accuracy": 1.0, "f1": 1.0},
    ),
    "numbers": Case(
        "sequence_regression",
        bert("regression", 2),
        NUMBERS,
        {"labels": NUMBERS},
        {"correlation": 1.0, "rank_correlation": 1.0, "loss": 0.0},
    ),
    "labels": Case(
        "multi_label_classification",
        bert("multi_label", C),
        8 * LABELS - 4,
        {"labels": LABELS},
        {"f1": 1.0, **{f"f1/{i}": 1.0 for i in range(C)}},
    ),
    "entities": Case(
        "token_classification",
        bert("token_classification", C),
        one_hot(OF_TOKENS),
        {"labels": OF_TOKENS},
        {"f1": 1.0, "precision": 1.0, "recall": 1.0, "accuracy": 1.0, "f1/X": 1.0},
    ),
    "answers": Case(
        "question_answering",
        bert("span"),
        (8 * (np.arange(T)[:, None] == SPANS[:, None])).astype(np.float32),
        {"labels": SPANS, "context": np.ones((N, T), bool), "windows": np.arange(N, dtype=np.int32)},
        {"f1": 1.0, "exact_match": 1.0},
    ),
    "choices": Case(
        "choices",
        OptConfig(),
        one_hot(OF_TOKENS),
        {"labels": CHOSEN, "choices": np.arange(N, dtype=np.int32)},
        {"accuracy": 1.0, "accuracy_norm": 1.0},
    ),
    "fidelity of words": Case(
        "distill", bert("token_classification", C), one_hot(OF_TOKENS) + 20, {LOGITS: one_hot(OF_TOKENS) + 20}, FIDELITY
    ),
    "fidelity of spans": Case("distill", bert("span"), ENDS, {LOGITS: ENDS}, FIDELITY),
    "fidelity of a score": Case("distill", bert("regression", 1), SCORES, {LOGITS: SCORES}, FIDELITY),
    "fidelity of numbers": Case("distill", bert("regression", 2), NUMBERS, {LOGITS: NUMBERS}, FIDELITY),
    "fidelity of one class": Case("distill", VitConfig(num_classes=1), SCORES, {LOGITS: SCORES}, FIDELITY),
    "fidelity of labels": Case("distill", bert("multi_label", C), 8 * LABELS - 9, {LOGITS: 8 * LABELS - 9}, FIDELITY),
    "fidelity of classes": Case(
        "distill", bert("classification", C), one_hot(OF_TEXTS) + 20, {LOGITS: one_hot(OF_TEXTS) + 20}, FIDELITY
    ),
    "fidelity of tokens": Case("distill", BERT, one_hot(OF_TOKENS) + 20, {LOGITS: one_hot(OF_TOKENS) + 20}, FIDELITY),
    "fidelity of embeddings": Case("distill", bert("none"), EMBEDDINGS, {HIDDEN: EMBEDDINGS}, {"centred_fidelity": 1}),
}
DESTROYED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "constant": lambda x: np.broadcast_to(x.mean(axis=tuple(range(x.ndim - 1))), x.shape),
    "of other texts": lambda x: np.roll(x, 1, axis=0),
    "of the wrong sign": lambda x: -x,
}
FAR = 0.4


def measured(case: Case, outputs: np.ndarray) -> dict[str, float]:
    """By batches, of which the last is filled with what must not count."""
    shape = (
        case.targets["labels"].shape if case.objective in ("clm", "mlm", "choices", "token_classification") else (N,)
    )
    weights = np.ones(shape, np.float32)
    weights[-8:] = 0
    whole = {**case.targets, "weights": weights, "tokens": np.zeros((N, T), np.int32), "outputs": outputs.copy()}
    whole["outputs"][-8:] = 100
    batches = [{name: x[i : i + 16] for name, x in whole.items()} for i in range(0, N, 16)]
    loss = OBJECTIVES[case.objective].for_model(case.config).for_data(DATA).loss
    return add_up(lambda batch: loss.measured(batch.pop("outputs"), batch, 1), batches)


def test_every_metric_that_is_read_is_in_the_table():
    named = {(case.objective, metric) for case in CASES.values() for metric in case.perfect}
    assert {(name, objective.metric) for name, objective in OBJECTIVES.items()} <= named


@pytest.mark.parametrize("name", CASES)
def test_what_is_right_is_perfect_and_what_is_destroyed_is_far_from_it(name):
    case = CASES[name]
    found = measured(case, case.right)
    for metric, perfect in case.perfect.items():
        assert found[metric] == pytest.approx(perfect, abs=2e-3), metric
    for how, destroy in DESTROYED.items():
        found = measured(case, destroy(case.right))
        for metric, perfect in case.perfect.items():
            assert abs(found[metric] - perfect) > FAR, (how, metric)
        better = OBJECTIVES[case.objective].lower_is_better
        metric = OBJECTIVES[case.objective].metric
        assert metric not in case.perfect or (found[metric] > case.perfect[metric]) == better


def test_the_cosine_alone_of_embeddings_that_point_one_way_is_not_enough():
    """Which is why the centred one is measured beside it."""
    found = measured(CASES["fidelity of embeddings"], DESTROYED["of other texts"](EMBEDDINGS))
    assert found["fidelity"] > 0.9 and found["centred_fidelity"] < 0.3


def test_joined_batches_have_the_moments_of_all_rows():
    """However far the outputs are from 0; by NumPy in float64."""
    score = (1e3 + RNG.normal(size=(N, 1))).astype(np.float32)
    noisy = score + 0.5 * RNG.normal(size=(N, 1)).astype(np.float32)
    case = Case("distill", bert("regression", 1), score, {LOGITS: score}, {})
    found = measured(case, noisy)
    x, t = (z[:-8, 0].astype(np.float64) for z in (noisy, score))
    assert found["fidelity"] == pytest.approx(np.corrcoef(x, t)[0, 1], rel=1e-5)
    assert found["loss"] == pytest.approx(np.square(x - t).mean() / t.var(), rel=1e-4)


def test_a_small_number_beside_a_large_one_is_seen():
    right = NUMBERS * [100, 1]
    case = Case("distill", bert("regression", 2), right, {LOGITS: right.astype(np.float32)}, {})
    found = measured(case, np.stack([right[:, 0], np.roll(right[:, 1], 1)], axis=1))
    assert found["fidelity"] < 0.7 and found["loss"] > 0.7


def test_the_judge_and_the_neighbours_see_it_too(monkeypatch):
    """Neighbours among embeddings that are all negated are the same, and rightly so: nothing of a search changes."""
    monkeypatch.setattr(healing, "NEAREST", 4)
    vectors = EMBEDDINGS.mean(axis=1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = healing.nearest(vectors)
    assert healing.kept(vectors, kept) == 1 and centred_cosine(vectors, vectors) == pytest.approx(1)
    for how, destroy in DESTROYED.items():
        assert centred_cosine(destroy(vectors), vectors) < 1 - FAR, how
        assert how == "of the wrong sign" or healing.kept(destroy(vectors), kept) < 1 - FAR, how
