"""The loss to beat: a unigram model, which knows how often each token occurs and nothing of its context.

    python -m experiments.unigram --config=configs/wikitext2_bert.py

Counts the labels of up to 32,768 training blocks (plus one each: no token is impossible) and prints the held-out
cross entropy of those frequencies, over the same predictions that `qtx evaluate` scores. A language model whose loss is
not clearly below it has not learned to use context.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable

import numpy as np

from experiments.bad_input import told_in_a_line
from qtx.cli.flags import parse
from qtx.data import Data, load
from qtx.experiment import read
from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError

BATCH_SIZE = 256
MOST_BLOCKS = 1 << 15
"""More do not change the frequencies; synthetic data has a million."""


def counts(batches: Iterable[Batch], vocab_size: int) -> np.ndarray:
    """How often each token is a label `[vocab_size]`, float64."""
    total = np.zeros(vocab_size)
    for batch in batches:
        total += np.bincount(batch["labels"].ravel(), batch["weights"].ravel(), vocab_size)
    return total


def unigram_loss(data: Data) -> float:
    """Held-out cross entropy, in nats per prediction, of the training labels' frequencies."""
    blocks = data.calibration(BATCH_SIZE, seed=0)
    training = (
        counts(itertools.islice(blocks, -(-min(len(data.training), MOST_BLOCKS) // BATCH_SIZE)), data.vocab_size) + 1
    )
    held_out = counts(data.evaluation(BATCH_SIZE), data.vocab_size)
    return float(-(held_out * np.log(training / training.sum())).sum() / held_out.sum())


@told_in_a_line("unigram")
def main(arguments: list[str]) -> int:
    """Prints the loss and its perplexity; 2 for bad input."""
    config, _ = parse(arguments)
    if config is None:
        raise QtxError("unigram needs --config=FILE, e.g. --config=configs/wikitext2_bert.py")
    experiment = read(config)
    data = load(experiment.data, experiment.objective)
    if data.vocab_size is None:
        raise QtxError(f"data source {experiment.data.name!r} has no tokens: choose a config of text")
    loss = unigram_loss(data)
    print(f"{data.description}\nunigram model: held-out loss {loss:.4f}, perplexity {math.exp(loss):.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
