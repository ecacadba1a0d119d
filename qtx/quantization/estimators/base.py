"""The interface of range estimators."""

from __future__ import annotations

import abc
import dataclasses

import jax

from qtx.foundation.limits import Checked

EstimatorState = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Estimator(Checked, abc.ABC):
    """An `Estimator` makes one range [minimum, maximum] of a stream of tensors; a frozen dataclass of its options, in
    optax's manner. Its state has a fixed size, so memory does not grow with the number of tensors seen.
    """

    @abc.abstractmethod
    def init(self) -> EstimatorState:
        """Returns the state before the first tensor, float32 arrays by name, all finite: values that are not say, in a
        later state, that a tensor was not finite (see `qtx.quantization.granularity.observe`)."""

    @abc.abstractmethod
    def update(
        self,
        state: EstimatorState,
        x: jax.Array,
        bits: jax.Array | int,
        symmetric: bool,
        where: jax.Array | None = None,
    ) -> EstimatorState:
        """Returns the state after one more tensor.

        Args:
          state: from `init`, or from `update` with the tensor before.
          x: the tensor, of any shape and floating dtype.
          bits: 2 to 16, of the grid that the range is for; may be a traced array.
          symmetric: whether this grid's zero-point is fixed at 0.
          where: the values that count, broadcasting to `x`; None: all.
        """

    @abc.abstractmethod
    def result(self, state: EstimatorState) -> tuple[jax.Array, jax.Array]:
        """Returns the range (minimum, maximum), float32 scalars, of the tensors that a state has seen."""
