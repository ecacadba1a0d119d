"""A sensitivity sweep finds the tensor that costs most: it quantizes each site and weight alone, and all others but it.

The choice of active quantizers is data (bits 0 are off), so a sweep over hundreds of tensors compiles the model once.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from qtx.foundation.batch import Batch
from qtx.foundation.numbers import number, told_apart
from qtx.foundation.storage import Expected, read_sealed_json, sealed_json, shaped, write_whole
from qtx.masks import counted
from qtx.quantization import Quantized, float32_only
from qtx.quantization.interceptor import seen
from qtx.quantization.plan import flatten, is_table, over_layers
from qtx.quantization.rounding import round_to_range
from qtx.sites import on_sites, part_of

KINDS = ("weight", "activation")
FILE = "sensitivity.json"
EXPECTED = Expected("a sweep of this version of qtx", "run qtx sensitivity again, or delete it")
HEADER = ["tensor", "kind", "bits", "SQNR, dB", "quantized alone", "all but it"]


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """The effect of quantizing one tensor.

    Attributes:
      kind: "weight" or "activation".
      path: the path of the parameter or site.
      layer: the tensor's layer, from 0; None outside the layers.
      bits: the tensor's bits in the scheme.
      sqnr: signal-to-quantization-noise ratio in dB, 10 log10(sum x^2 / sum (x - Q(x))^2), of the tensor in the
        floating-point model; 6 dB are one bit.
      alone: the metric with this tensor quantized alone.
      without: the metric with every tensor quantized but this one.
    """

    kind: str
    path: str
    layer: int | None
    bits: int
    sqnr: float
    alone: float
    without: float

    @property
    def name(self) -> str:
        """Returns the tensor's name, e.g. `layers/mlp/out[2]`."""
        return self.path if self.layer is None else f"{self.path}[{self.layer}]"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A model's sensitivities, the costliest tensors first.

    Attributes:
      scheme, metric: what was swept and measured, e.g. "w8a8" and "perplexity".
      fp, quantized: the metric with nothing and with everything quantized.
      rows: one sensitivity per tensor and layer.
    """

    scheme: str
    metric: str
    fp: float
    quantized: float
    rows: tuple[Sensitivity, ...]


Target = tuple[str, str, int | None]
"""A quantized tensor: (kind, path, layer)."""


def targets(quantized: Quantized) -> list[Target]:
    """Lists every quantized tensor of a model, layer by layer."""
    found: list[Target] = []
    for kind in KINDS:
        for path, r in quantized.ranges(kind).items():
            layers = range(r["bits"].size) if r["bits"].ndim else (None,)
            found += [(kind, path, layer) for layer in layers]
    return found


def with_some(quantized: Quantized, params: Any, some: Sequence[Target], alone: bool) -> Quantized:
    """Returns the model with some tensors quantized `alone`, or with all but these quantized.

    Args:
      quantized: the model with every quantizer on.
      params: the parameters of the floating-point model.
      some: the tensors; none: quantizes nothing if `alone`, else everything.
      alone: whether to quantize these alone, or all but these.
    """

    def on(kind: str, path: str, layers: tuple[int, ...]) -> np.ndarray:
        chosen = np.full(layers, not alone)
        for target in some:
            if target[:2] == (kind, path):
                chosen[() if target[2] is None else target[2]] = alone
        return chosen

    ranges = {
        kind: {
            path: {**r, "bits": jnp.where(on(kind, path, r["bits"].shape), r["bits"], 0.0)}
            for path, r in quantized.ranges(kind).items()
        }
        for kind in KINDS
    }
    weights = _select(quantized.params, params, {path: r["bits"] > 0 for path, r in ranges["weight"].items()})
    return dataclasses.replace(
        quantized, params=weights, weight_ranges=ranges["weight"], activation_ranges=ranges["activation"]
    )


@jax.jit
def _select(rounded: Any, params: Any, on: dict[str, jax.Array]) -> Any:
    """Takes each weight from `rounded` if its quantizer is on, else from `params`; all else is the same in both."""
    flat, result = flatten(rounded), dict(flatten(params))
    for path, chosen in on.items():
        shape = chosen.shape + (1,) * (flat[path].ndim - chosen.ndim)
        result[path] = jnp.where(chosen.reshape(shape), flat[path], result[path])
    return traverse_util.unflatten_dict(result, sep="/")


def sweep(
    quantized: Quantized,
    params: Any,
    batches: Sequence[Batch],
    measure: Callable[[Quantized], float],
    chosen: Iterable[Target],
    *,
    scheme: str,
    metric: str,
    lower_is_better: bool,
) -> Sweep:
    """Measures what quantizing each of the chosen tensors of a model costs.

    Args:
      quantized: the calibrated model.
      params: the parameters of the floating-point model.
      batches: what the signal-to-noise ratios are taken over.
      measure: a model's metric; compiled once, for all settings have the same structure.
      chosen: the tensors, of `targets`.
      scheme, metric, lower_is_better: what is swept and measured.
    """
    ratios = signal_to_noise(quantized, params, batches)
    fp, full = (measure(with_some(quantized, params, (), alone)) for alone in (True, False))
    rows = []
    for target in chosen:
        kind, path, layer = target
        r = quantized.ranges(kind)[path]
        rows.append(
            Sensitivity(
                kind,
                path,
                layer,
                int(r["bits"].ravel()[layer or 0]),
                float(np.ravel(ratios[kind, path])[layer or 0]),
                measure(with_some(quantized, params, [target], alone=True)),
                measure(with_some(quantized, params, [target], alone=False)),
            )
        )
    sign = 1 if lower_is_better else -1
    return Sweep(scheme, metric, fp, full, tuple(sorted(rows, key=lambda row: (-sign * row.alone, sign * row.without))))


def costliest(
    quantized: Quantized,
    params: Any,
    measure: Callable[[Quantized], float],
    lower_is_better: bool,
    price: Callable[[Sequence[Target]], float] = lambda group: 1.0,
) -> Iterator[Target]:
    """Yields the tensors by what they cost when quantized alone, the costliest first; arguments as of `sweep`.

    The tensors are halved, and again and again the half that costs most, on the assumption that a group costs no less
    than its parts: for five tensors of an MPNet of 12 layers this takes 35 measurements, of 258 tensors.
    A path's layers are neighbours, for what costs in one layer mostly costs in the next.

    With a `price` of some tensors, those come first that cost most for their price.
    """
    sign = 1 if lower_is_better else -1
    numbers = itertools.count()  # among equals the first comes first
    every = targets(quantized)
    if not every:
        return
    nothing = sign * measure(with_some(quantized, params, (), alone=True))
    waiting: list[tuple[float, int, list[Target]]] = [(0.0, next(numbers), every)]
    while waiting:
        group = heapq.heappop(waiting)[2]
        if len(group) == 1:
            yield group[0]
            continue
        for half in (group[: len(group) // 2], group[len(group) // 2 :]):
            cost = sign * measure(with_some(quantized, params, half, alone=True)) - nothing
            heapq.heappush(waiting, (-cost / price(half), next(numbers), half))


def signal_to_noise(quantized: Quantized, params: Any, batches: Sequence[Batch]) -> dict[tuple[str, str], np.ndarray]:
    """Computes the ratio in dB, a scalar or `[L]`, of every quantized tensor of the floating-point model, by (kind,
    path); a tensor that rounding does not change has infinity."""
    totals = None
    for batch in batches:
        powers = _activation_powers(quantized, params, batch)
        totals = powers if totals is None else jax.tree.map(jnp.add, totals, powers)
    flat = traverse_util.flatten_dict(totals or {})
    found = {("activation", "/".join(path[:-1])): power for path, power in flat.items() if path[-1] == "power"}
    found |= {("weight", path): power for path, power in _weight_powers(quantized, params).items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        return {key: 10 * np.log10(np.asarray(p)[..., 0] / np.asarray(p)[..., 1]) for key, p in found.items()}


def _powers(x: jax.Array, rounded: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Computes the sums of squares `[2]` of a tensor and of its rounding error."""

    def power(values):
        values = jnp.square(values.astype(jnp.float32))
        return (values if where is None else jnp.where(where, values, 0.0)).sum(axis=-1).sum()

    return jnp.stack([power(x), power(x - rounded)])


@jax.jit
def _activation_powers(quantized: Quantized, params: Any, batch: Batch) -> Any:
    planned = {p.path: p for p in quantized.activation_plan}

    def observe(site, path, y, mask):
        if path in planned:
            rounded = round_to_range(y, site.get_variable("ranges", "range"), planned[path], seen(mask))
            where = counted(y.shape, batch, mask, quantized.module, part_of(site))
            site.put_variable("calibration", "power", _powers(y, rounded, where))
        return y

    variables = {"params": params, "ranges": quantized.range_collection}
    with on_sites(observe, planned):
        return float32_only.apply(quantized.module, variables, batch, mutable=["calibration"])[1]["calibration"]


@jax.jit
def _weight_powers(quantized: Quantized, params: Any) -> dict[str, Any]:
    flat, rounded, result = flatten(params), flatten(quantized.params), {}
    for planned in quantized.weight_plan:
        path = planned.path
        of_grid, r = rounded[path], quantized.weight_ranges[path]
        if is_table(path):  # tables are rounded as they are looked up
            rounding = over_layers(r["bits"], functools.partial(round_to_range, planned=planned, weight=True))
            of_grid = rounding(flat[path], r)
        result[path] = over_layers(r["bits"], _powers)(flat[path], of_grid)
    return result


def save_sweep(sweep: Sweep, workdir: Path) -> Path:
    """Writes a run's sensitivity.json, whole or not at all."""
    write_whole({workdir / FILE: sealed_json(dataclasses.asdict(sweep))})
    return workdir / FILE


def load_sweep(workdir: Path) -> Sweep | None:
    """Reads a run's sweep, if there is one.

    Raises:
      QtxError: if the file is damaged, or not one of this version.
    """
    file = workdir / FILE
    if not file.is_file():
        return None
    values = read_sealed_json(file, EXPECTED)
    try:
        return shaped(values, Sweep)
    except TypeError as error:
        raise EXPECTED.refusal(file, error) from None


def table_rows(sweep: Sweep, count: int) -> list[list[str]]:
    """Formats the first `count` rows as cells under `HEADER`, after a row for the model with everything quantized."""

    def precise(value: float) -> str:
        """Formats a metric to five digits: single tensors change it by little."""
        scale = 100.0 if sweep.metric == "accuracy" else 1.0
        return told_apart(scale * value, 5, "g", whole=scale)

    return [["everything", "", "", "", precise(sweep.quantized), f"{precise(sweep.fp)} (FP)"]] + [
        [row.name, row.kind, str(row.bits), number(row.sqnr), precise(row.alone), precise(row.without)]
        for row in sweep.rows[:count]
    ]
