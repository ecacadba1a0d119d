"""What every range estimator does."""

from __future__ import annotations

import abc
import dataclasses

import jax

EstimatorState = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Estimator(abc.ABC):
    """A stream of tensors to one range [minimum, maximum]; a frozen dataclass of its options, in optax's manner.

    A state is of fixed size, so memory does not grow with what an estimator has seen.
    """

    @abc.abstractmethod
    def init(self) -> EstimatorState:
        """The state before the first tensor, float32 arrays by name, all finite: what is not says in a state that a
        tensor was not (see `qtx.quantization.granularity.observe`)."""

    @abc.abstractmethod
    def update(
        self,
        state: EstimatorState,
        x: jax.Array,
        bits: jax.Array | int,
        symmetric: bool,
        where: jax.Array | None = None,
    ) -> EstimatorState:
        """The state after one more tensor.

        Args:
          state: of `init`, or of the tensor before.
          x: of any shape and floating dtype.
          bits: 2 to 16, of the grid that the range is for; may be a traced array.
          symmetric: whether that grid's zero-point is fixed at 0.
          where: the values that count, broadcasting to `x`; None: all.
        """

    @abc.abstractmethod
    def result(self, state: EstimatorState) -> tuple[jax.Array, jax.Array]:
        """(minimum, maximum), float32 scalars, of what a state has seen."""
