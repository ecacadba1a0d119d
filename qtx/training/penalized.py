"""Penalties on the tensors at a model's sites while it trains: their sums, and the check that the sites exist."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qtx.foundation.errors import QtxError, unknown
from qtx.masks import token_mask
from qtx.sites import capture
from qtx.training.penalties import Penalty

HEAD = "head/"


class Mean(NamedTuple):
    """A mean that adds up: the sum and the number of its terms, float32 scalars."""

    total: jax.Array
    terms: jax.Array

    @classmethod
    def zero(cls) -> Mean:
        """Returns the mean of no terms."""
        zero = jnp.zeros((), jnp.float32)
        return cls(zero, zero)


def penalty_sums(
    penalties: Mapping[str, Penalty],
    captured: Mapping[str, jax.Array],
    batch: Mapping[str, jax.Array],
    whole: Mapping[str, jax.Array],
    step: jax.Array,
) -> tuple[jax.Array, dict[str, Mean]]:
    """Returns the penalties' part of a microbatch's loss, a scalar, and the sums of each penalty, before its weight.

    A penalty is divided by the number of real tokens in the whole batch, as the loss is by the weights, so that the
    parts of an accumulated batch add up to the penalty of that batch.

    Args:
      penalties: the penalties by name.
      captured: the tensors of at least the penalties' sites, path -> `[L, B, T, D]`.
      batch: the microbatch.
      whole: the batch that the microbatch is a part of.
      step: updates done, for annealed options.
    """
    loss, sums = jnp.zeros((), jnp.float32), {}
    for name, penalty in penalties.items():
        mean, of_whole = Mean.zero(), jnp.zeros((), jnp.float32)
        for site in _sites(penalty, captured):
            layers, _, length, _ = captured[site].shape
            real = token_mask(batch, length)
            values = jnp.where(real, penalty(captured[site].astype(jnp.float32), step), 0.0)
            mean = Mean(mean.total + values.sum(), mean.terms + layers * real.sum(dtype=jnp.float32))
            of_whole += layers * token_mask(whole, length).sum(dtype=jnp.float32)
        loss += penalty.annealed("weight", step) * mean.total / jnp.maximum(of_whole, 1.0)
        sums[name] = mean
    return loss, sums


def check_sites(penalties: Mapping[str, Penalty], module: Any, params: Any, batch: Mapping[str, Any]) -> None:
    """Raises QtxError unless the model has the sites of every penalty (naming the nearest otherwise), with a value per
    token, and every penalty gives one number per token. The model is traced without computing.

    Args:
      penalties: the penalties by name.
      module: the model that is trained.
      params: the model's parameters, or their shapes.
      batch: a batch, of which only the shapes matter.
    """
    if not penalties:
        return
    _, sites = jax.eval_shape(lambda params: capture(module.apply, ("*",), {"params": params}, dict(batch)), params)
    for name, penalty in penalties.items():
        for pattern in penalty.patterns:
            found = fnmatch.filter(sites, pattern)
            if not found:
                raise unknown(f"site of the penalty {name}", pattern, sites)
            for site in found:
                if not _per_token(site, sites[site].shape, batch):
                    raise QtxError(
                        f"the penalty {name} has sites {pattern!r}, but {site} has no value per token and feature: its "
                        f"shape is {list(sites[site].shape[1:])} for a batch of one; choose e.g. layers/mlp/out"
                    )
                given = jax.eval_shape(penalty, sites[site].update(dtype=jnp.float32), jnp.int32(0)).shape
                if given != sites[site].shape[:-1]:
                    raise QtxError(
                        f"the penalty {name} gives {list(given)} of the values {list(sites[site].shape)} of {site}: "
                        f"expected one number per token, {list(sites[site].shape[:-1])}; means are taken of these"
                    )


def _sites(penalty: Penalty, paths: Mapping[str, Any]) -> list[str]:
    """Returns the paths that are a penalty's sites, each once."""
    return sorted({path for pattern in penalty.patterns for path in fnmatch.filter(paths, pattern)})


def _per_token(site: str, shape: tuple[int, ...], batch: Mapping[str, Any]) -> bool:
    """Says whether the tensor `[L, B, ...]` at a site is `[L, B, T, D]`; every patch of an image is a token."""
    predictions = site.startswith(HEAD) and "positions" in batch
    return len(shape) == 4 and not predictions and ("tokens" not in batch or shape[2] == batch["tokens"].shape[1])
