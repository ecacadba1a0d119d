"""The interface of a kind of basis."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

Move = Callable[[jax.Array, jax.Array], jax.Array]


class Kind(NamedTuple):
    """A `Kind` says how tensors enter a basis, given the basis's array, and how they leave it.

    Attributes:
      rank: the number of axes of the array, each as long as an activation's last: 1 for `[D]`, 2 for `[D, D]`.
      enter, leave: bring an activation `[..., D]` into the basis, and back.
      enter_weight, leave_weight: bring a weight `[D, F]` into the basis, and back; None: a weight stays as it is.
    """

    rank: int
    enter: Move
    leave: Move
    enter_weight: Move | None = None
    leave_weight: Move | None = None
