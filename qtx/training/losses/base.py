"""The base class of losses, each of which gives sums of a batch to train by, and sums of a batch to measure by."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax


class Training(NamedTuple):
    """The facts that a training step gives a loss besides a microbatch and the model's output.

    Attributes:
      captured: the tensors at the sites of `Loss.sites`, path -> `[L, B, ...]`.
      whole: the batch that the microbatch is a part of.
      label_smoothing: the training option of that name.
      shards: the number of parts into which devices split the microbatch.
    """

    captured: Mapping[str, jax.Array]
    whole: Mapping[str, jax.Array]
    label_smoothing: float = 0.0
    shards: int = 1


class Loss(abc.ABC):
    """A measure of how far a model's output is from what it should be; hashable, since compiled functions depend on it.

    Both kinds of sums are named tuples of arrays. They add up over microbatches, devices and batches with padding, by
    their own method `plus` or else entry by entry, and their method `metrics` gives the numbers that people read.

    Attributes:
      window: the class of what `training_sums` returns: float32 scalars, of which `loss` is differentiated.
      sites: patterns of the sites that `training_sums` looks at.
      factored: whether the output may be the factors of logits (`qtx.models.vocabulary.Factors`).
    """

    window: ClassVar[type[Any]]
    sites: ClassVar[tuple[str, ...]] = ()
    factored: ClassVar[bool] = False

    @abc.abstractmethod
    def training_sums(self, output: Any, batch: Mapping[str, jax.Array], training: Training) -> Any:
        """Returns the sums of a microbatch; the gradient is that of `loss` divided by the whole batch's weights."""

    @abc.abstractmethod
    def sums(self, output: Any, batch: Mapping[str, jax.Array], shards: int) -> Any:
        """Returns the sums of a batch of held-out data, which devices split into so many `shards`."""
