"""The paper's outlier metrics of a model, and a cheap check of its attention's health for use during training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from qtx.analysis.capture import FloatingPoint, Model, measured_sites, values_at
from qtx.analysis.heads import look_at_heads
from qtx.analysis.statistics import WeightedMean, infinity_norm, kurtosis
from qtx.anatomy import read
from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError
from qtx.masks import counted, sample_mask

# A running mean over the samples, `[L]`, of "inf_norms" and of "kurtoses", by site.
NormState = dict[str, dict[str, WeightedMean]]


def outlier_metrics(
    module: nn.Module, params: Any, batches: Iterable[Batch], *, count_padding: bool = False
) -> dict[str, Any]:
    """Computes the infinity norms and kurtoses of the tensors that the paper measures, averaged over all samples.

    Memory does not grow with the number of batches.

    Args:
      module: a model of a registered family.
      params: the model's unboxed parameters.
      batches: batches of one static shape; samples whose `weights` are all 0 are left out.
      count_padding: whether padded positions count, as in the paper's official code.

    Returns:
      `max_inf_norm` and `avg_kurtosis`, as the paper reports them for the family, `max_kurtosis`; and per site
      `inf_norms` and `kurtoses`, arrays over the layers (of length 1 for a site outside the layers).

    Raises:
      QtxError: if there are no batches.
    """
    model = FloatingPoint(module, params)
    state = None
    for batch in batches:
        state = initial_norms(module, batch) if state is None else state
        state = _update(model, state, dict(batch), count_padding)
    if state is None:
        raise QtxError("no batches to measure outliers on: the evaluation data is empty")
    return summary(module, state)


def official_metrics(module: nn.Module, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Names `outlier_metrics` as the paper's official code does, one number a tensor, for comparison with that code."""
    sites = measured_sites(module)

    def named(per_site):
        return {
            sites.tensors[site].format(layer=layer): float(value)
            for site, values in per_site.items()
            for layer, value in enumerate(values)
        }

    norms = metrics["inf_norms"]
    maxima = {name: float(max(norms[site].max() for site in over)) for name, over in sites.maxima.items()}
    return {
        **maxima,
        "avg_kurtosis": metrics["avg_kurtosis"],
        "max_kurtosis": metrics["max_kurtosis"],
        "inf_norms": named(norms),
        "kurtoses": named(metrics["kurtoses"]),
    }


def attention_health(module: nn.Module, params: Any, batch: Batch, step: Any = None) -> dict[str, float]:
    """Computes numbers that show during training what attention does to a model; compiled once per module and shape.

    Args:
      module: a model of a registered family.
      params: the model's unboxed parameters.
      batch: one batch.
      step: training step, for normalizers that anneal; None: fully trained.

    Returns:
      dead_row_share: share of the queries that attend to nothing at all. Near 1 no gradient reaches the scores.
      zero_share: share of the visible probabilities that are exactly 0.
      sink_mass: the attention that each head gives its favourite token, averaged over heads and layers.
      max_inf_norm, avg_kurtosis: as `outlier_metrics`, on this batch.
      inf_norm/layer_00 and so on, kurtosis/layer_00 and so on: per layer, of the tensor whose infinity norm the paper
        reports.
    """
    return health(FloatingPoint(module, params), batch, step)


def health(model: Model, batch: Batch, step: Any = None) -> dict[str, float]:
    """Computes `attention_health` for a model that may be quantized."""
    measured = jax.device_get(_health(model, dict(batch), step))
    found = {}
    for name, value in measured.items():
        if value.ndim == 0:
            found[name] = float(value)
        else:
            found |= {f"{name}/layer_{layer:02}": float(of_layer) for layer, of_layer in enumerate(value)}
    return found


def initial_norms(module: nn.Module, batch: Batch) -> NormState:
    """Returns the state before any sample is seen; see `update_norms`. The batch gives shapes only."""
    sites, anatomy = measured_sites(module), read(module, batch)

    def states(names):
        return {site: WeightedMean.zero(*(anatomy.leading(site) or (1,))) for site in names}

    return {"inf_norms": states(sites.tensors), "kurtoses": states(sites.kurtosis)}


def update_norms(
    module: nn.Module, state: NormState, values: Mapping[str, jax.Array], batch: Batch, count_padding: bool = False
) -> NormState:
    """Updates the running means with a batch and its captured `values` `[L, B, T, D]` by site of a model."""
    measures, samples = {"inf_norms": infinity_norm, "kurtoses": kurtosis}, sample_mask(batch)

    def measured(kind: str, x: jax.Array) -> jax.Array:
        where = None if count_padding else counted(x.shape[1:], batch, model=module)
        return jax.vmap(lambda of_layer: measures[kind](of_layer, where))(x)

    return {
        kind: {
            site: jax.vmap(WeightedMean.plus, (0, 0, None))(before, measured(kind, values[site]), samples)
            for site, before in table.items()
        }
        for kind, table in state.items()
    }


def summary(module: nn.Module, state: NormState) -> dict[str, Any]:
    """Returns what `outlier_metrics` does, over all batches that the state has seen."""
    means = {kind: {site: np.asarray(s.mean.high) for site, s in table.items()} for kind, table in state.items()}
    kurtoses = np.concatenate(list(means["kurtoses"].values()))
    return {
        "max_inf_norm": float(means["inf_norms"][measured_sites(module).infinity_norm].max()),
        "avg_kurtosis": float(kurtoses.mean()),
        "max_kurtosis": float(kurtoses.max()),
        **means,
    }


@jax.jit(static_argnames="count_padding")
def _update(model: FloatingPoint, state: NormState, batch: dict[str, Any], count_padding: bool) -> NormState:
    values = values_at(model, batch, measured_sites(model.module).tensors)
    return update_norms(model.module, state, values, batch, count_padding)


@jax.jit
def _health(model: Model, batch: dict[str, Any], step: Any) -> dict[str, jax.Array]:
    sites = measured_sites(model.module)
    values, heads = look_at_heads(model, batch, sites.tensors, step)
    means = {}
    for name in ("dead_row_share", "zero_share", "sink_mass"):
        measured, weights = heads.statistics[name]  # [L, B, H], [L, B]
        # In float32: a large batch has more visible keys than int32 can count.
        weights = weights.astype(jnp.float32)
        means[name] = jnp.sum(measured * weights[..., None]) / jnp.maximum(jnp.sum(weights) * measured.shape[-1], 1)
    norms = update_norms(model.module, initial_norms(model.module, batch), values, batch)
    per_layer_norm = norms["inf_norms"][sites.infinity_norm].mean.high
    return means | {
        "max_inf_norm": jnp.max(per_layer_norm),
        "avg_kurtosis": jnp.mean(jnp.concatenate([state.mean.high for state in norms["kurtoses"].values()])),
        "inf_norm": per_layer_norm,
        "kurtosis": norms["kurtoses"][sites.infinity_norm].mean.high,
    }
