"""What computes attention without its scores and probabilities in memory, and the choice of one."""

from __future__ import annotations

import abc
import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from qtx.attention.normalizers import Normalizer, Rows
from qtx.masks import Mask


class Case(NamedTuple):
    """One attention layer, as it is about to run.

    Attributes:
      normalizer: scores to probabilities.
      mask: which keys are seen.
      shape: of the queries, (B, T, H, D).
      dtype: of the products.
      dropout: rate on the probabilities.
      platform: JAX's name of the devices' kind, e.g. `"cpu"`.
      devices: how many the arrays are split over.
    """

    normalizer: Normalizer
    mask: Mask
    shape: tuple[int, ...]
    dtype: jnp.dtype
    dropout: float
    platform: str
    devices: int


def case_of(normalizer: Normalizer, mask: Mask, query: jax.Array, dropout: float) -> Case:
    """The case of queries `[B, T, H, D]`, on the devices that this process has."""
    mesh = jax.typeof(query).sharding.mesh
    platform = jax.default_backend()
    return Case(normalizer, mask, query.shape, query.dtype, dropout, platform, max(mesh.size, 1))


class Backend(abc.ABC):
    """A way to compute attention that never forms all its scores and probabilities."""

    @abc.abstractmethod
    def refusal(self, case: Case) -> str | None:
        """What of a case it cannot compute, in words; None: it can compute it."""

    @abc.abstractmethod
    def pays(self, case: Case) -> bool:
        """Whether, as measured, it is faster than the naive way in a case that it can compute."""

    @abc.abstractmethod
    def __call__(
        self,
        case: Case,
        parameters: Mapping[str, jax.Array],
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        rows: Rows,
        dropout_key: jax.Array | None,
    ) -> jax.Array:
        """The context `[B, T, H, D]`: `normalizer(parameters, scores, rows)`, with dropout, times the values.

        Args:
          case: what is computed.
          parameters: of the normalizer, float32.
          query, key, value: `[B, T, H, D]`, the query scaled.
          rows: which keys each query sees, and the training step.
          dropout_key: draws the dropout; None: there is none.
        """


_taken: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("taken", default=None)


@contextlib.contextmanager
def recording() -> Iterator[list[str]]:
    """Within the context, the names of the backends that attention layers take are added to the list, as they are
    traced."""
    names: list[str] = []
    token = _taken.set(names)
    try:
        yield names
    finally:
        _taken.reset(token)


def record(name: str) -> None:
    """Tells `recording` what a layer takes."""
    names = _taken.get()
    if names is not None:
        names.append(name)
