"""This module computes batch by batch, and keeps as one `.npz` file, all that a report draws about a trained model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from qtx.analysis.capture import FloatingPoint, Model, measured_sites, values_at
from qtx.analysis.head_map import HeadMap, head_map, shown
from qtx.analysis.heads import Heads, attentions, look_at_heads
from qtx.analysis.metrics import initial_norms, summary, update_norms
from qtx.analysis.statistics import OutlierCounts, WeightedMean, histogram
from qtx.anatomy import read
from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected, read_npz, sealed_npz, shaped, write_whole
from qtx.foundation.totals import Count, exact
from qtx.masks import token_mask, tokens_at
from qtx.parts import Part

BINS = 1024  # several for every step of an 8-bit grid in the bulk, so that its steps are seen apart
QUARTILES_APART = 1.349  # in standard deviations of a normal distribution
TOP_TOKENS = 12

EXPECTED = Expected("an analysis of this version of qtx", "run qtx evaluate again, or delete it")

_ATTENTION_METRICS = ("sink_mass", "value_drain", "zero_share", "dead_row_share")
KEPT = (*_ATTENTION_METRICS, "first_mass", "context_norm", "openness", "column_mass")
"""The statistics of heads that are averaged over all samples."""


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The inside of one trained model in numbers. L layers, H heads, T positions, D hidden dimensions.

    Attributes:
      metrics: the numbers of a results line: max_inf_norm, avg_kurtosis, max_kurtosis, outliers (6-sigma values found
        in `site`), outlier_share (of all its values), sink_mass, value_drain, zero_share and dead_row_share (averages
        over layers and heads).
      site: where outliers are counted: the family's site of the paper's infinity norm.
      inf_norms, kurtoses: per measured site, `[L]`.
      outliers_by_dimension, outliers_by_position: counts of 6-sigma values in `site`, `[L, D]` and `[L, T]`.
      outlier_tokens: the tokens with the most outliers and their counts, all layers together; empty for images.
      heads: per statistic `[L, H]`: sink_mass, first_mass, value_drain, zero_share, dead_row_share, context_norm
        (largest value of the head's output) and, with a gate, openness.
      column_mass: the attention that each position receives, averaged over heads, `[L, T]`.
      histogram_range: the ends of the histograms' axes `[L, 2]`, by `"<site> full"` (all values) and `"<site> bulk"`
        (the median plus and minus 4 deviations of the bulk, whatever the outliers).
      histograms: by the same names, int counts `[L, 1024]` in floating point; values beyond an end are counted in the
        outermost bin.
      quantized_histograms: the histograms of the quantized model; empty without one.
      maps: "sink" and "outlier" to the map of one head, see `qtx.analysis.head_map`.
    """

    metrics: dict[str, float]
    site: str
    inf_norms: dict[str, np.ndarray]
    kurtoses: dict[str, np.ndarray]
    outliers_by_dimension: np.ndarray
    outliers_by_position: np.ndarray
    outlier_tokens: dict[str, int]
    heads: dict[str, np.ndarray]
    column_mass: np.ndarray
    histogram_range: dict[str, np.ndarray]
    histograms: dict[str, np.ndarray]
    quantized_histograms: dict[str, np.ndarray]
    maps: dict[str, HeadMap]


def measure_outliers(
    module: nn.Module,
    params: Any,
    batches: Iterable[Batch],
    *,
    token_text: Callable[[int], str] | None = None,
    quantized: Model | None = None,
) -> Analysis:
    """Analyses a trained model on held-out data. Memory does not grow with the number of batches.

    Args:
      module: a model of a registered family.
      params: the model's unboxed parameters.
      batches: batches of one static shape, such as `data.evaluation(batch_size)`; iterated more than once.
      token_text: token id to text, for labels; None: tokens are shown by their ids.
      quantized: the same model quantized, for the histograms "after".

    Raises:
      QtxError: if there are no batches.
    """
    model, sites = FloatingPoint(module, params), measured_sites(module)
    first = next(iter(batches), None)
    if first is None:
        raise QtxError("no batches to analyse: the evaluation data is empty")
    first = dict(first)
    state, ranges = _initial(model, first), _histogram_ranges(model, first)
    for batch in batches:
        state = _update(model, state, ranges, dict(batch))
    after: dict[str, Any] = {}
    if quantized is not None:
        after = jax.tree.map(jnp.zeros_like, state["histograms"])
        for batch in batches:
            after = _update_histograms(quantized, after, ranges, dict(batch))
    norms = summary(module, state["norms"])
    heads = {name: mean.mean.exact().astype(np.float32) for name, mean in state["heads"].items()}
    counts, histograms, after = exact((state["outliers"], state["histograms"], after))
    ranges = jax.device_get(ranges)
    column_mass = heads.pop("column_mass").mean(axis=1)
    total = int(counts.by_dimension.sum())
    looked_at = int(counts.tokens_at_position.sum()) * counts.by_dimension.shape[1]
    text = token_text or str
    by_token = counts.by_token.sum(axis=0)
    top = [int(token) for token in np.argsort(-by_token, kind="stable")[:TOP_TOKENS] if by_token[token]]
    loud = next((s for s in feed_forward_outputs(module, first) if s in norms["inf_norms"]), sites.infinity_norm)
    layer = int(norms["inf_norms"][loud].argmax())
    sink = np.unravel_index(heads["sink_mass"].argmax(), heads["sink_mass"].shape)
    return Analysis(
        metrics={
            **{name: norms[name] for name in ("max_inf_norm", "avg_kurtosis", "max_kurtosis")},
            "outliers": total,
            "outlier_share": total / max(looked_at, 1),
            **{name: float(heads[name].mean()) for name in _ATTENTION_METRICS},
        },
        site=sites.infinity_norm,
        inf_norms=norms["inf_norms"],
        kurtoses=norms["kurtoses"],
        outliers_by_dimension=counts.by_dimension,
        outliers_by_position=counts.by_position,
        outlier_tokens={text(token): int(by_token[token]) for token in top},
        heads=heads,
        column_mass=column_mass,
        histogram_range=ranges,
        histograms=histograms,
        quantized_histograms=after,
        maps={
            # The head that parks most of its attention on one token, and the head that speaks loudest where the
            # feed-forward network's outliers are largest.
            "sink": _map_of(model, first, int(sink[0]), int(sink[1]), text),
            "outlier": _map_of(model, first, layer, int(heads["context_norm"][layer].argmax()), text),
        },
    )


def feed_forward_outputs(module: nn.Module, batch: Batch) -> list[str]:
    """Returns the sites of what feed-forward networks add to the residual stream: no attention layer has them."""
    inside = tuple(f"{one.path}/" for one in attentions(module, batch))
    branches = read(module, batch).sites_of((Part.BRANCH,))
    return [site.path for site in branches if site.stack and not site.path.startswith(inside)]


def histogram_sites(model: Model, batch: Batch) -> tuple[str, ...]:
    """Returns the sites whose values are counted: the feed-forward output, and that of the paper's infinity norm."""
    first = measured_sites(model.module).infinity_norm
    return tuple(dict.fromkeys((first, *feed_forward_outputs(model.module, batch))))


def _map_of(model: FloatingPoint, batch: Batch, layer: int, head: int, text: Callable[[int], str]) -> HeadMap:
    """Computes the map of one head on the first example of a batch."""
    of_layer, real, tokens = jax.device_get(_first_example(model, batch, jnp.array(layer)))
    return head_map(layer, head, of_layer, real, tokens, text)


@jax.jit
def _first_example(model: FloatingPoint, batch: dict[str, Any], layer: jax.Array) -> tuple[Any, jax.Array, Any]:
    batch = {name: x[:1] for name, x in batch.items()}
    tensors, _, real = look_at_heads(model, batch)[1]
    tokens = tokens_at(batch, real.shape[1], model.module)
    return {name: x[layer] for name, x in shown(tensors, 0).items()}, real[0], None if tokens is None else tokens[0]


@jax.jit
def _histogram_ranges(model: FloatingPoint, batch: dict[str, Any]) -> dict[str, jax.Array]:
    """Computes the ends of the histograms, `[L, 2]`, from the first batch; all batches are counted between these."""
    ranges = {}
    for site, x in values_at(model, batch, histogram_sites(model, batch)).items():
        mask = token_mask(batch, x.shape[2], model.module)
        real = jnp.where(mask[..., None], x.astype(jnp.float32), jnp.nan).reshape(len(x), -1)
        low, lower, median, upper, high = jnp.nanpercentile(real, jnp.array([0.0, 25.0, 50.0, 75.0, 100.0]), axis=1)
        bulk = 4 * jnp.maximum(upper - lower, 1e-6) / QUARTILES_APART
        ranges[f"{site} full"] = jnp.stack([jnp.minimum(1.25 * low, -1e-6), jnp.maximum(1.25 * high, 1e-6)], axis=1)
        ranges[f"{site} bulk"] = jnp.stack([median - bulk, median + bulk], axis=1)
    return ranges


def _looked_at(model: FloatingPoint, batch: dict[str, Any]) -> tuple[dict[str, Any], Heads]:
    return look_at_heads(model, batch, {*measured_sites(model.module).tensors, *histogram_sites(model, batch)})


def _initial(model: FloatingPoint, batch: dict[str, Any]) -> dict[str, Any]:
    values, heads = jax.eval_shape(_looked_at, model, batch)
    means = {name: WeightedMean.zero(len(x), *x.shape[2:]) for name, (x, _) in heads.statistics.items()}
    num_layers, _, length, width = values[measured_sites(model.module).infinity_norm].shape
    vocabulary = model.module.config.vocab_size if model.module.config.reads == "tokens" else 0
    return {
        "norms": initial_norms(model.module, batch),
        "outliers": OutlierCounts.zero(num_layers, width=width, length=length, vocabulary=vocabulary),
        "heads": {name: mean for name, mean in means.items() if name in KEPT},
        "histograms": {
            f"{site} {view}": Count.zero(len(values[site]), BINS)
            for site in histogram_sites(model, batch)
            for view in ("full", "bulk")
        },
    }


@jax.jit
def _update(model: FloatingPoint, state: Any, ranges: dict[str, jax.Array], batch: dict[str, Any]) -> Any:
    values, (_, statistics, real) = _looked_at(model, batch)
    measured = values[measured_sites(model.module).infinity_norm]
    by_sample = {name: (x.swapaxes(0, 1), weights.T) for name, (x, weights) in statistics.items()}  # [B, L, ...]
    tokens = tokens_at(batch, real.shape[1], model.module)
    return {
        "norms": update_norms(model.module, state["norms"], values, batch),
        "outliers": jax.vmap(lambda seen, x: seen.plus(x, real, tokens))(state["outliers"], measured),
        "heads": {name: mean.plus(*by_sample[name]) for name, mean in state["heads"].items()},
        "histograms": _counted(state["histograms"], values, ranges, real),
    }


@jax.jit
def _update_histograms(model: Model, counts: dict[str, jax.Array], ranges: dict[str, jax.Array], batch: Any) -> Any:
    values = values_at(model, batch, histogram_sites(model, batch))
    return _counted(counts, values, ranges, token_mask(batch, next(iter(values.values())).shape[2], model.module))


def _counted(counts, values, ranges, mask):
    def count(before, x, ends):
        return before.plus(histogram(x, mask, ends[0], ends[1], BINS))

    return {name: jax.vmap(count)(before, values[name.split()[0]], ranges[name]) for name, before in counts.items()}


def save_analysis(analysis: Analysis, path: Path) -> None:
    """Writes one `.npz` file, whole or not at all: arrays by their path in the dataclass, the rest as JSON."""
    arrays: dict[str, np.ndarray] = {}

    def split(name: str, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays[name] = value
            return {"array": name}
        if dataclasses.is_dataclass(value):
            value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if isinstance(value, dict):
            return {key: split(f"{name}/{key}", item) for key, item in value.items()}
        return value

    tree = split("", analysis)
    write_whole({path: sealed_npz(arrays, tree)})


def load_analysis(path: Path) -> Analysis:
    """Reads what `save_analysis` wrote.

    Raises:
      QtxError: if the file is damaged, or of another kind or version.
    """
    arrays, tree = read_npz(path, EXPECTED)

    def join(value: Any) -> Any:
        if isinstance(value, dict) and value.keys() == {"array"}:
            return arrays[value["array"]]
        return {key: join(item) for key, item in value.items()} if isinstance(value, dict) else value

    try:
        return shaped(join(tree), Analysis)
    except (KeyError, TypeError) as error:
        raise EXPECTED.refusal(path, error) from None
