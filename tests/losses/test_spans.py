"""Answers to questions: the loss against its formula in NumPy, scores against SQuAD's official scripts, copied here."""

from __future__ import annotations

import collections
import re
import string

import jax
import numpy as np
import pytest

from qtx.losses import SpanCrossEntropy, Training
from qtx.losses.answers import Answers
from qtx.losses.spans import LONGEST
from qtx.training.evaluate import add_up

RNG = np.random.default_rng(0)


def normalize_answer(s):
    """SQuAD's official evaluation scripts, versions 1.1 and 2.0, as published."""

    def remove_articles(text):
        return re.sub(r"\b(a|an|the)\b", " ", text)

    def white_space_fix(text):
        return " ".join(text.split())

    def remove_punc(text):
        exclude = set(string.punctuation)
        return "".join(ch for ch in text if ch not in exclude)

    return white_space_fix(remove_articles(remove_punc(s.lower())))


def compute_exact(prediction, truth):
    return int(normalize_answer(prediction) == normalize_answer(truth))


def compute_f1(prediction, truth, version):
    one, other = normalize_answer(prediction).split(), normalize_answer(truth).split()
    common = collections.Counter(one) & collections.Counter(other)
    num_same = sum(common.values())
    if version == 2 and (len(one) == 0 or len(other) == 0):
        return int(one == other)
    if num_same == 0:
        return 0
    precision, recall = num_same / len(one), num_same / len(other)
    return (2 * precision * recall) / (precision + recall)


def official(predictions, golds, version):
    exact = f1 = 0.0
    for prediction, answers in zip(predictions, golds, strict=True):
        if version == 2:
            answers = [a for a in answers if normalize_answer(a)] or [""]
        exact += max(compute_exact(prediction, a) for a in answers)
        f1 += max(compute_f1(prediction, a, version) for a in answers)
    return {"exact_match": exact / len(golds), "f1": f1 / len(golds)}


WORDS = ["the", "The", "a", "red,", "house", "(red)", "of", "an", "ants", "House", "U.S.", "--", "\u00e9t\u00e9", "a"]
T, AT = 48, 4
"""Tokens of a window, and the position of the first one of the text."""


def made(version, questions=40):
    """Questions about texts of words, of one window or several, and logits: (Answers, batches, predictions, golds); the
    predictions are found span by span."""
    texts, offsets, windows, rows, right, predictions = [], [], [], [], [], []
    for question in range(questions):
        words = RNG.choice(WORDS, RNG.integers(1, 90)).tolist()
        text = " ".join(words)
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        places = np.stack([ends - [len(word) for word in words], ends], axis=1)
        candidates, none = [], []
        for start in range(0, max(len(words) - 10, 1), T - AT - 1 - 10):
            count = min(T - AT - 1, len(words) - start)
            logits = RNG.normal(size=(T, 2)).astype(np.float32)
            logits[0] += 3 * (question % 3 == 0)
            context = (np.arange(T) >= AT) & (np.arange(T) < AT + count)
            rows.append((logits, context, len(windows), RNG.integers(0, AT + count, 2).astype(np.int32)))
            windows.append((question, start - AT))
            none.append(logits[0].sum())
            for i in range(AT, AT + count):
                for j in range(i, min(i + 30, AT + count)):
                    span = text[places[i - AT + start, 0] : places[j - AT + start, 1]]
                    candidates.append((logits[i, 0] + logits[j, 1], span))
        score, best = max(candidates)
        golds = [" ".join(words[(k := RNG.integers(len(words))) : k + 1 + RNG.integers(4)]) for _ in range(3)]
        golds = [best, *golds[1:]] if question % 4 == 0 else golds
        right.append([] if version == 2 and question % 5 == 0 else golds)
        predictions.append("" if version == 2 and min(none) > score else best)
        texts.append(text)
        offsets.append(places)
    answers = Answers("x", version == 2, [r or [""] for r in right], texts, offsets, np.array(windows))
    return answers, rows, predictions, right


def batches_of(rows, size=16):
    names = ("outputs", "context", "windows", "labels")
    for at in range(0, len(rows), size):
        some = [*rows[at : at + size], *rows[:size]][:size]  # the last batch is filled up
        batch = {name: np.stack([row[i] for row in some]) for i, name in enumerate(names)}
        yield {**batch, "weights": (np.arange(at, at + size) < len(rows)).astype(np.float32)}


@pytest.mark.parametrize("version", [1, 2])
def test_scores_are_those_of_the_official_script(version):
    answers, rows, predictions, golds = made(version)
    several = collections.Counter(answers.windows[:, 0].tolist())
    assert max(several.values()) > 2 and min(several.values()) == 1 and LONGEST == 30
    loss = SpanCrossEntropy(answers)
    for size in (16, len(rows)):
        measured = jax.jit(lambda batch: loss.measured(batch["outputs"], batch, 1))
        found = add_up(measured, batches_of(rows, size))
        assert found["predictions"] == len(rows)
        expected = official(predictions, golds, version)
        assert 0.1 < expected["exact_match"] < expected["f1"] < 0.9
        assert {name: found[name] for name in expected} == pytest.approx(expected)
        assert found["loss"] == pytest.approx(np.mean([cross_entropy(row) for row in rows]), rel=1e-5)
    assert version == 1 or 3 < predictions.count("") < len(predictions) - 3


def cross_entropy(row):
    logits, _, _, labels = row
    z = logits.astype(np.float64)
    return np.mean([np.log(np.exp(z[:, end]).sum()) - z[labels[end], end] for end in (0, 1)])


def test_answers_of_few_words_and_of_none():
    """Where the versions of the script differ: an answer that is an article alone, found or not."""
    for version in (1, 2):
        for found, golds in (
            ("the", ["The"]),
            ("a", ["the", "a an"]),
            ("", ["the"]),
            ("it", ["the"]),
            ("U.S.", ["us"]),
        ):
            text, end = f"x {found}", 2 + len(found)
            answers = Answers("x", version == 2, [golds], [text], [np.array([[0, 1], [2, end]])], np.array([[0, 0]]))
            one = [np.array([x]) for x in (0, 1, 1, 3.0, 0.0)]
            assert answers.scores(*one) == official([found], [golds], version)


def test_padding_is_no_place_and_smoothing_spreads_over_the_real_tokens():
    z, labels = RNG.normal(size=(2, 6, 2)).astype(np.float32), np.array([[1, 2], [0, 0]], np.int32)
    mask = np.arange(6) < np.array([[4], [6]])
    batch = {"mask": mask, "labels": labels, "weights": np.array([1.0, 2.0], np.float32)}
    for smoothing in (0.0, 0.1):
        total = 0.0
        for row in range(2):
            for end in (0, 1):
                real = z[row, mask[row], end].astype(np.float64)
                log_p = real - np.log(np.exp(real).sum())
                target = (1 - smoothing) * (np.arange(len(real)) == labels[row, end]) + smoothing / len(real)
                total -= batch["weights"][row] * (target * log_p).sum() / 2
        sums = jax.jit(lambda z, batch, e=smoothing: SpanCrossEntropy()(z, batch, Training({}, batch, e)))(z, batch)
        assert (float(sums.loss), float(sums.weight)) == pytest.approx((total, 3.0), rel=1e-5)


def test_a_window_without_any_of_the_text_gives_no_answer():
    answers = Answers("x", False, [["b"]], ["b"], [np.array([[0, 1]])], np.array([[0, 0]]))
    batch = {"context": np.zeros((1, 5), bool), "windows": np.zeros(1, np.int32), "labels": np.zeros((1, 2), np.int32)}
    measured = jax.jit(lambda batch: SpanCrossEntropy(answers).measured(np.zeros((1, 5, 2), np.float32), batch, 1))
    sums = jax.device_get(measured({**batch, "weights": np.ones(1)}))
    assert sums.metrics()["f1"] == 0
