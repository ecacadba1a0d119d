"""The log-likelihoods of the choices that questions have, and how often the right one has the highest: the formulas of
lm-evaluation-harness (Gao et al. 2021), output type `multiple_choice`."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from qtx.foundation.batch import Batch
from qtx.losses.base import Loss, Training
from qtx.losses.cross_entropy import training_sums
from qtx.losses.sums import PredictionSums, perplexity


@dataclasses.dataclass(frozen=True)
class Choices:
    """The choices of held-out questions, those of a question side by side; two are equal if their digests are: programs
    are compiled for one.

    Attributes:
      digest: a hash of all the others.
      questions: the number of each choice's question, ascending, int `[N]`.
      right: whether each choice is the right one, bool `[N]`.
      lengths: characters of each choice, int `[N]`.
    """

    digest: str
    questions: np.ndarray = dataclasses.field(compare=False, repr=False)
    right: np.ndarray = dataclasses.field(compare=False, repr=False)
    lengths: np.ndarray = dataclasses.field(compare=False, repr=False)


class Likelihoods(NamedTuple):
    """The log-likelihood of every choice.

    Attributes:
      choices: the numbers of the choices, `[M]`.
      log: log-likelihoods, in nats, `[M]`.
      tokens: tokens of each choice, `[M]`; 0 for padding.
    """

    choices: Any
    log: Any
    tokens: Any


@functools.partial(jax.tree_util.register_dataclass, data_fields=["likelihoods"], meta_fields=["choices"])
@dataclasses.dataclass(frozen=True)
class ChoiceSums:
    """The log-likelihoods of choices, of which a question is judged once it has all. `plus` appends, on the host."""

    likelihoods: Likelihoods
    choices: Choices

    def plus(self, more: Self) -> Self:
        """Returns the log-likelihoods of these choices and of others."""
        pairs = zip(self.likelihoods, more.likelihoods, strict=True)
        return dataclasses.replace(self, likelihoods=Likelihoods(*map(np.concatenate, pairs)))

    def metrics(self) -> dict[str, float]:
        """Returns the metrics of the questions of which all choices are there, NaN for none:

        - loss and perplexity of the tokens of right choices, whose number is predictions,
        - accuracy, how often the right choice has the highest log-likelihood (`acc` of lm-evaluation-harness),
        - accuracy_norm, how often it has the highest per character (`acc_norm`).
        """
        counted = np.asarray(self.likelihoods.tokens) > 0
        found, log, tokens = (np.asarray(x)[counted] for x in self.likelihoods)
        of_choice, number = self.choices.questions, found.astype(int)
        asked, there = of_choice[number], np.bincount(of_choice)
        whole = (np.bincount(asked, minlength=len(there)) == there)[asked]
        asked, number, log, tokens = (x[whole] for x in (asked, number, log, tokens))
        right = self.choices.right[number]
        by_sum, by_character = (
            _share_right(scores, asked, right) for scores in (log, log / self.choices.lengths[number])
        )
        predictions = float(tokens[right].sum())
        loss = -float(log[right].sum()) / predictions if predictions else math.nan
        return {
            "loss": loss,
            "perplexity": perplexity(loss),
            "accuracy": by_sum,
            "accuracy_norm": by_character,
            "predictions": predictions,
        }


def _share_right(scores: np.ndarray, questions: np.ndarray, right: np.ndarray) -> float:
    """Returns the share of the questions whose right choice is the first of those with the highest score."""
    # Sorted by question, then by falling score; a stable sort keeps the first of equal ones first.
    order = np.lexsort((-scores, questions))
    _, best = np.unique(questions[order], return_index=True)
    return float(right[order][best].mean()) if len(best) else math.nan


@dataclasses.dataclass(frozen=True)
class ChoiceCrossEntropy(Loss):
    """The cross entropy of logits `[B, T, vocab]` and `labels` `[B, T]`, those of a choice weighing 1. It is trained on
    right choices alone, and measured by the log-likelihoods of all.

    Attributes:
      choices: the choices of held-out questions; None: there are none yet, and nothing is measured.
    """

    choices: Choices | None = None

    window = PredictionSums

    def __call__(self, output: jax.Array, batch: Batch, training: Training) -> PredictionSums:
        return training_sums(output, batch, training.label_smoothing)

    def measured(self, output: jax.Array, batch: Batch, shards: int) -> ChoiceSums:
        assert self.choices is not None, "the objective is made for its data"
        weights, logits = batch["weights"].astype(jnp.float32), output.astype(jnp.float32)
        of_label = jnp.take_along_axis(logits, batch["labels"][..., None], axis=-1)[..., 0]
        log = jnp.where(weights > 0, of_label - jax.nn.logsumexp(logits, axis=-1), 0.0)
        return ChoiceSums(Likelihoods(batch["choices"], log.sum(axis=1), weights.sum(axis=1)), self.choices)
