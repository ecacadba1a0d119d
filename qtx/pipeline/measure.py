"""This module measures a trained run: its metric and its outliers, in floating point and quantized.

The measuring functions are compiled once per model and shape, not once per run: runs of a comparison that differ in
their seed alone share them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qtx.analysis.analysis import Analysis, load_analysis, measure_outliers, save_analysis
from qtx.analysis.capture import FloatingPoint
from qtx.data import Data
from qtx.data.label_values import TAGS
from qtx.experiment import record
from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError
from qtx.losses import Loss
from qtx.losses.binary_cross_entropy import OF_LABEL
from qtx.pages.results import Result
from qtx.pipeline.assemble import Assembled
from qtx.pipeline.measurements import add as add_measurements
from qtx.pipeline.measurements import as_result, calibration_options
from qtx.pipeline.quantize import method_of
from qtx.pipeline.run import TrainedRun
from qtx.quantization import Quantized
from qtx.quantization.files import LEARNED
from qtx.quantization.integer import IntegerModel
from qtx.training import RunFolder
from qtx.training.evaluate import add_up
from qtx.training.sharding import batch_shards

# A measurement's `ranges`, unless these are learned or from a file.
CALIBRATED = "calibrated"


def measure(
    run: TrainedRun, schemes: Mapping[str, Quantized], variant: str, began: float, ranges: str = CALIBRATED
) -> Result:
    """Measures loss, metric and outliers of a run on the held-out data, in floating point and quantized.

    Adds the measurements to `results.json` (see `qtx.pipeline.measurements`), and, if the run is measured on its own
    data, writes `analysis.npz`, which the report draws.

    Args:
      run: the run.
      schemes: the quantized models, from `quantize`, or none. The scheme that the run was trained under, if any, is
        added as the first; the report draws the first.
      variant: the name of the run's attention in tables.
      began: when the work on the run began, by `time.monotonic()`; the time since then is reported.
      ranges: where the ranges of `schemes` are from: calibrated, or a file; those of training are recorded as learned.
    """
    assembled, trained = run.assembled, run.trained_schemes
    schemes = trained | dict(schemes)
    metrics = metrics_of(assembled, FloatingPoint(assembled.module, run.floating_point))
    analysis = measure_outliers(
        assembled.module,
        run.floating_point,
        assembled.evaluation(),
        token_text=token_text(assembled.data),
        quantized=next(iter(schemes.values()), None),
    )
    quantized = {name: metrics_of(assembled, model) for name, model in schemes.items()}
    head = {
        "variant": variant,
        "seed": assembled.experiment.seed,
        "parameters": assembled.parameters,
        "metric": assembled.objective.metric,
    }
    data = {"own": run.own_data, "description": assembled.data.description, **assembled.data.digests}
    used, total = assembled.held_out_batches
    conditions = {"checkpoint": run.checkpoint, "data": data, "held_out_batches": {"used": used, "of": total}}
    config = record(assembled.experiment)["quantization"]
    seconds = round(time.monotonic() - began, 2)
    measurements = [{**conditions, "scheme": "fp", "values": {**metrics, **analysis.metrics, "seconds": seconds}}]
    for scheme, values in quantized.items():
        how = {
            "method": method_of(assembled, scheme),
            "ranges": LEARNED if schemes[scheme] is trained.get(scheme) else ranges,
            "options": calibration_options(config),
        }
        measurements.append({**conditions, "scheme": scheme, **how, "values": values})
    if run.own_data:
        save_analysis(_with_earlier_histograms(analysis, run.workdir), run.workdir / "analysis.npz")
    add_measurements(RunFolder(run.workdir), head, measurements)
    return as_result(head, measurements)


def _with_earlier_histograms(analysis: Analysis, workdir: Path) -> Analysis:
    """Adds the quantized histograms of an earlier analysis of the same values to one in floating point alone."""
    file = workdir / "analysis.npz"
    if analysis.quantized_histograms or not file.is_file():
        return analysis
    with contextlib.suppress(QtxError):
        earlier = load_analysis(file)
        if jax.tree.all(jax.tree.map(np.array_equal, earlier.histograms, analysis.histograms)):
            return dataclasses.replace(analysis, quantized_histograms=earlier.quantized_histograms)
    return analysis


def token_text(data: Data) -> Callable[[int], str] | None:
    """Returns a function from token id to text, for labels; None for data without a tokenizer."""
    tokenizer = data.tokenizer
    return None if tokenizer is None else lambda token: tokenizer.tokens([token])[0]


def metrics_of(assembled: Assembled, model: FloatingPoint | Quantized | IntegerModel) -> dict[str, float]:
    """Computes loss and metrics of a model on the held-out data (see `add_up`), those of single labels by name."""
    found = add_up(sums_of(assembled, model), assembled.evaluation())
    # The loss of tags names types of entities itself.
    names = () if assembled.objective.label_kind == TAGS else assembled.data.classes or ()
    named = {f"{OF_LABEL}{number}": f"{OF_LABEL}{name}" for number, name in enumerate(names)}
    return {named.get(key, key): value for key, value in found.items()}


def sums_of(assembled: Assembled, model: FloatingPoint | Quantized | IntegerModel) -> Callable[[Batch], Any]:
    """Returns a function from a batch to the sums of a model's loss (see `model_sums`), for `add_up`."""
    return functools.partial(model_sums, assembled.objective.loss, batch_shards(assembled.mesh), model)


@functools.partial(jax.jit, static_argnums=(0, 1))
def model_sums(loss: Loss, shards: int, model: FloatingPoint | Quantized | IntegerModel, batch: Batch) -> Any:
    """Computes the sums by which a loss measures a model's output for a batch, split into `shards` by devices."""
    return loss.measured(loss.output_of(model.apply, batch), batch, shards)
