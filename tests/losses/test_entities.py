"""F1 by entity against the rules of `conlleval`, as seqeval has them, in plain Python, word by word."""

from __future__ import annotations

import math
from collections import Counter

import jax
import numpy as np
import pytest

from qtx.data import OBJECTIVES, Data
from qtx.losses.entities import scheme_of
from qtx.training.evaluate import add_up


def entities(labels):
    """(type, first word, last word), as seqeval's `get_entities` finds them in its default mode."""
    found, before, kind_before, begin = [], "O", "", 0
    for i, label in enumerate([*labels, "O"]):
        tag, kind = label[0], label.partition("-")[2]
        ended = before in "ES" or (before in "BI" and tag in "BSO") or (before != "O" and kind_before != kind)
        if ended and before != "O":
            found.append((kind_before, begin, i - 1))
        begun = (
            tag in "BS"
            or (before in "ES" and tag in "EI")
            or (before == "O" and tag in "EI")
            or (tag != "O" and kind_before != kind)
        )
        if begun:
            begin = i
        before, kind_before = tag, kind
    return found


def scores(predicted, labels):
    """Precision, recall and F1 over all entities, and F1 by type, of sentences."""
    sets = [{(i, *entity) for i, row in enumerate(rows) for entity in entities(row)} for rows in (predicted, labels)]
    right = sets[0] & sets[1]
    by_type = {kind for _, kind, *_ in sets[0] | sets[1]}

    def f1(*kinds):
        of_kinds = [sum(entity[1] in kinds for entity in one) for one in (right, *sets)]
        return 2 * of_kinds[0] / (of_kinds[1] + of_kinds[2])

    whole = {"precision": len(right) / len(sets[0]), "recall": len(right) / len(sets[1]), "f1": f1(*by_type)}
    return {**whole, **{f"f1/{kind}": f1(kind) for kind in by_type}}


B, T = 4, 9
RNG = np.random.default_rng(0)


def measured(names, labels, predicted, weights):
    """By batches of four sentences."""
    logits = 3 * (predicted[..., None] == np.arange(len(names))) + 0.1 * RNG.random((*predicted.shape, len(names)))
    batches = [
        {"labels": y, "weights": w, "z": z.astype(np.float32)}
        for y, w, z in zip(*(x.reshape(-1, B, *x.shape[1:]) for x in (labels, weights, logits)), strict=True)
    ]
    data = Data("", [], [], lambda record, rng: record, classes=names)
    loss = OBJECTIVES["token_classification"].for_data(data).loss
    found = add_up(jax.jit(lambda batch: loss.measured(batch["z"], batch, 1)), batches)
    z = (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))[weights > 0]
    expected = -np.take_along_axis(z, labels[weights > 0][:, None], axis=1).mean()
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    return found


SCHEMES = {
    "IOB2": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
    "IOB1": ("I-LOC", "I-PER", "O", "B-PER"),
    "IOBES": ("B-X", "E-X", "I-X", "S-X", "O", "S-Y", "B-Y", "E-Y"),
    "one type of several words": ("O", "I-a-b", "B-a-b"),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scores_are_those_of_seqeval(scheme):
    """The labels are in any order, as a model gives them; words have tokens without a label between them."""
    names, rows = SCHEMES[scheme], 5 * B
    labels, noise = (RNG.integers(0, len(names), (rows, T)) for _ in range(2))
    predicted = np.where(RNG.random((rows, T)) < 0.7, labels, noise)
    weights = (RNG.random((rows, T)) < 0.7).astype(np.float32)
    weights[-2:] = 0  # padding of the last batch
    found = measured(names, labels.astype(np.int32), predicted, weights)
    words = [
        [[names[i] for i in row[there > 0]] for row, there in zip(x, weights, strict=True)] for x in (predicted, labels)
    ]
    expected = scores(*words)
    assert len(expected) >= 4 and 0.1 < expected["f1"] < 0.9
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["accuracy"] == pytest.approx((predicted == labels)[weights > 0].mean())
    assert found["predictions"] == weights.sum()


def test_labels_without_prefixes_are_types_of_neighbours_or_of_single_words():
    bilou = scheme_of(("O", "U-X", "L-X", "B-X", "I-X"))
    iobes = scheme_of(("O", "S-X", "E-X", "B-X", "I-X"))
    for one, other in zip(bilou, iobes, strict=True):
        np.testing.assert_array_equal(one, other)
    of_neighbours, of_words = np.array([[0, 1, 1, 0]] * B, np.int32), np.array([[0, 1, 1, 0]] * B, np.int32)
    predicted, weights = np.array([[0, 1, 0, 0]] * B), np.ones((B, 4), np.float32)
    found = measured(("O", "PER"), of_neighbours, predicted, weights)
    assert (found["f1"], found["precision"], found["accuracy"]) == (0, 0, 0.75)
    found = measured(("NN", "VB"), of_words, predicted, weights)
    assert found["f1"] == found["accuracy"] == 0.75
    assert (found["f1/NN"], found["f1/VB"]) == pytest.approx((4 / 5, 2 / 3))


def test_where_there_is_no_entity_there_is_no_score():
    weights = np.ones((B, T), np.float32)
    found = measured(("O", "B-X"), np.zeros((B, T), np.int32), np.zeros((B, T), int), weights)
    assert all(math.isnan(found[name]) for name in ("f1", "precision", "recall")) and found["accuracy"] == 1
    missed = measured(("O", "B-X"), np.ones((B, T), np.int32), np.zeros((B, T), int), weights)
    assert (missed["f1"], missed["precision"], missed["recall"]) == (0, 0, 0)


def test_the_plain_rules_are_those_of_the_examples_of_seqeval():
    """The examples are those of seqeval's documentation."""
    labels = [["O", "O", "B-MISC", "I-MISC", "B-MISC", "I-MISC", "O", "B-PER", "I-PER"]]
    assert Counter(kind for kind, *_ in entities(labels[0])) == {"MISC": 2, "PER": 1}
    predicted = [["O", "O", "B-MISC", "I-MISC", "B-MISC", "I-MISC", "O", "B-PER", "I-PER"]]
    assert scores(predicted, labels)["f1"] == 1
    labels = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    predicted = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    assert scores(predicted, labels) == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "f1/MISC": 0, "f1/PER": 1}
