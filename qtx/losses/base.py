"""The base class of losses, each of which gives sums of a batch to train by, and sums of a batch to measure by."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax

from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError
from qtx.losses.sums import Sums
from qtx.models.vocabulary import factored


class Training(NamedTuple):
    """The facts that a training step gives a loss besides a microbatch and the model's output.

    Attributes:
      captured: the tensors at the sites that `Loss.sites` names, path -> `[L, B, ...]`.
      whole: the batch that the microbatch is a part of.
      label_smoothing: the training option of that name.
      shards: the number of parts into which devices split the microbatch.
    """

    captured: Mapping[str, jax.Array]
    whole: Batch
    label_smoothing: float = 0.0
    shards: int = 1


class Loss(abc.ABC):
    """A measure of how far a model's output is from what it should be; hashable, since compiled functions depend on it.

    Sums are named tuples of arrays, such as `Sums`. They are added by their own method `plus`, or else entry by entry,
    and their method `metrics` gives the numbers that people read.

    Attributes:
      window: the class of the sums that a call returns: float32 scalars, of which `loss` is differentiated.
      additive: whether the sums of a batch are those of its parts, added. If examples of a batch are compared with each
        other they are not, and what computes a batch in parts (gradient accumulation, quantization noise) is refused.
        Devices may share a batch: JAX computes on several what it computes on one.
      factored: whether the loss takes `Factors` (`qtx.models.vocabulary`) instead of logits; see `output_of`.
    """

    window: ClassVar[type[Any]] = Sums
    additive: ClassVar[bool] = True
    factored: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(self, output: Any, batch: Batch, training: Training) -> Any:
        """Returns the sums of a microbatch; the gradient is that of `loss` divided by the whole batch's weights."""

    def measured(self, output: Any, batch: Batch, shards: int) -> Any:
        """Returns the sums of a batch of held-out data, which devices split into so many `shards`; unless overridden,
        those of training."""
        return self(output, batch, Training({}, batch, shards=shards))

    def sites(self, module: nn.Module, batch: Batch) -> Collection[str]:
        """Returns the paths of a model's sites that a call looks at; unless overridden, none. The batch gives shapes
        only."""
        return ()

    def output_of(self, apply: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Returns what `apply` computes, a model's output for this loss. A loss that is `factored` is given `Factors`
        instead of logits over a vocabulary, unless something looks at the site `logits`: it takes both."""
        with factored() if self.factored else contextlib.nullcontext():
            return apply(*args, **kwargs)

    def check_whole(self, accumulation_steps: int, noise: bool) -> None:
        """Raises QtxError if training would compute batches in parts, and the loss of a batch is not that of its parts.

        Args:
          accumulation_steps: the training option of that name.
          noise: whether half of every batch is computed with quantization noise.
        """
        parts = (("training.accumulation_steps", "1", accumulation_steps > 1), ("qat.noise", "''", noise))
        for option, whole, used in parts:
            if used and not self.additive:
                raise QtxError(
                    f"{option} computes a batch in parts, but the loss {type(self).__name__} compares all examples of "
                    f"a batch with each other: set {option} to {whole}"
                )
