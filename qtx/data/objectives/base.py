"""The base classes `Objective`, of every training objective, and `TextObjective`, of those on text."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np

from qtx.data.label_values import CLASS
from qtx.data.tokenization import TextTokenizer
from qtx.foundation.batch import Batch
from qtx.losses import CrossEntropy, Loss

MakeExample = Callable[[np.ndarray, np.random.Generator], Batch]
"""A function of (block of ids int32 [L], generator) that makes one example, a dict of arrays without a batch axis."""


class Objective(abc.ABC):
    """An `Objective` says what a model learns: what an example is, which loss the model is trained on and measured by,
    and which of the loss's metrics people read.

    Attributes:
      loss: the loss that the model is trained on and measured by; see `for_model` and `for_data`.
      metric: the key of an evaluation's results (see `qtx.training.evaluate`) that a user reads first.
      lower_is_better: whether lower values of the metric are better.
      also_measured: further keys, besides `loss`, by which the best checkpoint may be chosen.
      built_in_sources: source that serves the objective without a file, by what a model reads (its config's `reads`).
      taught: whether the targets are the outputs of the run that training starts from.
      labelled: whether a text has a label, which only some sources give.
      label_kind: the kind of a text's label, of `qtx.data.label_values`.
    """

    loss: Loss
    metric: ClassVar[str]
    lower_is_better: ClassVar[bool]
    also_measured: ClassVar[tuple[str, ...]] = ()
    built_in_sources: ClassVar[Mapping[str, str]]
    taught: ClassVar[bool] = False
    labelled: ClassVar[bool] = False
    label_kind: ClassVar[str] = CLASS

    def for_model(self, config: Any) -> Self:
        """Returns this objective with its loss for a model's config, where the loss depends on the model."""
        return self

    def for_data(self, data: Any) -> Self:
        """Returns this objective with its loss for a `Data`, where the loss depends on what the labels mean."""
        return self


class TextObjective(Objective):
    """An objective on blocks of text, whatever source the text is from.

    Attributes:
      tokenizer: the kind of tokenizer to train if none is named, a name in `VOCABULARIES`.
      mask_probability: default of that option; None: the objective masks nothing, and does not take the option.
      pads: whether an example may be shorter than the sequence length; the option `min_length` is then taken.
      ends_document: whether the token between two documents belongs to the first; see `document_segments`.
    """

    loss: Loss = CrossEntropy()
    metric = "perplexity"
    lower_is_better = True
    also_measured: ClassVar[tuple[str, ...]] = ("accuracy",)
    built_in_sources = MappingProxyType({"tokens": "stdlib"})

    tokenizer: ClassVar[str]
    mask_probability: ClassVar[float | None] = None
    pads: ClassVar[bool] = False
    ends_document: ClassVar[bool] = True

    @property
    def masks(self) -> bool:
        """Says whether some tokens of a block are replaced by the tokenizer's mask token, and predicted."""
        return self.mask_probability is not None

    def block_length(self, sequence_length: int) -> int:
        """Returns L, the ids in a block from which an example of `sequence_length` tokens is made."""
        return sequence_length

    @abc.abstractmethod
    def example(self, tokenizer: TextTokenizer, predictions: int) -> MakeExample:
        """Returns the function that makes an example of a block: `tokens` and `mask` of the sequence length, `labels`
        and `weights`, and `positions` where only some positions are predicted.

        Args:
          tokenizer: the tokenizer, whose `mask` is not None for an objective that masks.
          predictions: P, how many tokens of a block to predict if the objective masks; otherwise 0.
        """
