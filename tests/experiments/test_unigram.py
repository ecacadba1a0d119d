"""The unigram baseline against a count by hand."""

import math

import numpy as np
import pytest

from experiments.unigram import counts, main, unigram_loss
from qtx.data import DataConfig, load
from qtx.data.sources import BigramBackcopy


def test_labels_of_weight_zero_do_not_count():
    batch = {"labels": np.array([[1, 2, 2]]), "weights": np.array([[1.0, 1.0, 0.0]])}
    assert counts([batch, batch], 4).tolist() == [0, 2, 2, 0]


@pytest.mark.slow
def test_loss_lies_between_uniform_and_nothing_and_is_that_of_the_frequencies():
    data = load(DataConfig(BigramBackcopy(sequence_length=8, vocab_size=16)), "clm")
    loss = unigram_loss(data)
    labels = np.concatenate([b["labels"][b["weights"] > 0] for b in data.evaluation(64)])
    shares = np.bincount(labels, minlength=16) / labels.size
    entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
    # Cross entropy exceeds the held-out labels' own entropy by the divergence of the two samples, which is small.
    assert entropy <= loss < entropy + 0.02
    assert loss < math.log(16)


@pytest.mark.parametrize("arguments, says", [([], "needs --config"), (["--config=configs/digits_vit.py"], "no tokens")])
def test_bad_input_is_told_in_a_line(arguments, says, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
