"""The interface of backends, which compute attention without its scores and probabilities in memory."""

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


class AttentionCase(NamedTuple):
    """One attention layer, as it is about to run.

    Attributes:
      normalizer: turns scores into probabilities.
      mask: which keys are seen.
      shape: the shape of the queries, (B, T, H, D).
      dtype: the dtype of the products.
      dropout: the rate on the probabilities.
      platform: JAX's name of the devices' kind, e.g. `"cpu"`.
      devices: how many devices the arrays are split over.
      biased: whether a bias is added to the scores.
      capped: whether the scores are bounded by a tanh.
    """

    normalizer: Normalizer
    mask: Mask
    shape: tuple[int, ...]
    dtype: jnp.dtype
    dropout: float
    platform: str
    devices: int
    biased: bool = False
    capped: bool = False


def case_of(
    normalizer: Normalizer, rows: Rows, query: jax.Array, dropout: float, capped: bool = False
) -> AttentionCase:
    """Returns the case of queries `[B, T, H, D]`, on the devices that this process has."""
    mesh = jax.typeof(query).sharding.mesh
    platform = jax.default_backend()
    devices, biased = max(mesh.size, 1), rows.bias is not None
    return AttentionCase(normalizer, rows.mask, query.shape, query.dtype, dropout, platform, devices, biased, capped)


def beyond_scores(case: AttentionCase) -> str | None:
    """Says in words what of a case asks for more than the products of queries and keys at the same positions."""
    if not case.mask.square:
        return "keys at other positions than the queries'"
    if case.biased:
        return "a bias of the scores"
    return "scores that are bounded" if case.capped else None


class Backend(abc.ABC):
    """A way to compute attention that never forms all its scores and probabilities."""

    @abc.abstractmethod
    def refusal(self, case: AttentionCase) -> str | None:
        """Says in words what of a case the backend cannot compute; None: it can compute the case."""

    @abc.abstractmethod
    def pays(self, case: AttentionCase) -> bool:
        """Says whether, as measured, the backend is faster than the naive way in a case that it can compute."""

    @abc.abstractmethod
    def __call__(
        self,
        case: AttentionCase,
        parameters: Mapping[str, jax.Array],
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        rows: Rows,
        dropout_key: jax.Array | None,
    ) -> jax.Array:
        """Computes the context `[B, T, H, D]`: `normalizer(parameters, scores, rows)`, with dropout, times the values.

        Args:
          case: the layer.
          parameters: the normalizer's parameters, float32.
          query, key, value: `[B, T, H, D]`, the query scaled.
          rows: which keys each query sees, and the training step.
          dropout_key: the key that draws the dropout; None: there is no dropout.
        """


_taken: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("taken", default=None)


@contextlib.contextmanager
def recording() -> Iterator[list[str]]:
    """Yields a list to which, within the context, the names of the backends that attention layers take are added, as
    the layers are traced."""
    names: list[str] = []
    token = _taken.set(names)
    try:
        yield names
    finally:
        _taken.reset(token)


def record(name: str) -> None:
    """Tells `recording` which backend a layer takes."""
    names = _taken.get()
    if names is not None:
        names.append(name)
