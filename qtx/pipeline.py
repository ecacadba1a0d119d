"""What is done to one run: train it, restore it, measure it in floating point, quantize it and measure again.

The measuring functions are compiled once per model and shape, not once per run: runs of a comparison that differ in
their seed share them.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from qtx.analysis.analysis import analyse, save_analysis
from qtx.analysis.capture import FloatingPoint
from qtx.analysis.sensitivity import Sweep, Target, sweep
from qtx.data import Data
from qtx.errors import QtxError
from qtx.experiment import Experiment, record
from qtx.prepare import Prepared
from qtx.quantization import Quantized, calibrate
from qtx.quantization.files import LEARNED, load_ranges, read_ranges
from qtx.quantization.integer import IntegerModel
from qtx.quantization.methods import METHODS
from qtx.results import Result
from qtx.training import NEWEST, OBJECTIVES, RunFolder, load_params, train
from qtx.training.evaluate import add_up
from qtx.training.objectives import Sums, cross_entropy_sums


def train_run(prepared: Prepared, workdir: Path, profile: bool = False) -> Any:
    """Trains, resumes, or takes the finished run in `workdir`; returns its parameters, those of `prepared.qat` if there
    is one."""
    result = train(prepared.experiment, workdir, prepared.data, profile)
    if prepared.data.tokenizer is not None:
        prepared.data.tokenizer.save(workdir / "tokenizer.json")
    return result.params


def check_run(experiment: Experiment, workdir: Path) -> None:
    """Raises QtxError unless `workdir` holds a run of this experiment."""
    folder = RunFolder(workdir)
    folder.read_config()
    folder.claim(record(experiment), write=False)


def restore_run(prepared: Prepared, workdir: Path, checkpoint: str = NEWEST) -> Any:
    """The parameters of a checkpoint of the run in `workdir`, as `train_run` returns them; see `load_params`.

    Raises:
      QtxError: if there is none, it is damaged, or that of another model.
    """
    return load_params(prepared.qat or prepared.module, prepared.data, workdir, prepared.experiment.mesh, checkpoint)


def trained_schemes(prepared: Prepared, params: Any) -> dict[str, Quantized]:
    """The scheme that a run was trained under, with its learned ranges; none without quantization-aware training."""
    return {} if prepared.qat is None else {prepared.experiment.qat.scheme: prepared.qat.quantized(params)}


def floating_point(prepared: Prepared, params: Any) -> Any:
    """The model's own parameters, of those of a run."""
    return params if prepared.qat is None else params["model"]


def measure(
    prepared: Prepared, params: Any, schemes: Mapping[str, Quantized], workdir: Path, variant: str, began: float
) -> Result:
    """Loss, metric and outliers of a run on the held-out data, in floating point and as quantized.

    Writes `results.json`, and `analysis.npz`, what the report draws of the run.

    Args:
      prepared: the experiment.
      params: its parameters, of `train_run` or `restore_run`.
      schemes: of `quantize`, the first of which is drawn in the report; empty to measure in floating point, and under
        the scheme that the run was trained under, if it was.
      workdir: the run's folder.
      variant: name of its attention in tables.
      began: when the work on the run began, by `time.monotonic()`; what it took is reported.
    """
    schemes, params = trained_schemes(prepared, params) | dict(schemes), floating_point(prepared, params)
    metric = OBJECTIVES[prepared.experiment.objective].metric
    model = FloatingPoint(prepared.module, params)
    metrics = metrics_of(prepared, model)
    first = next(iter(schemes.values()), None)
    analysis = analyse(
        prepared.module, params, prepared.evaluation(), token_text=token_text(prepared.data), quantized=first
    )
    quantized = {name: metrics_of(prepared, model) for name, model in schemes.items()}
    result = {
        "variant": variant,
        "seed": prepared.experiment.seed,
        "parameters": prepared.parameters,
        "metric": metric,
        "fp": metrics[metric],
        "loss": metrics["loss"],
        **analysis.metrics,
        "quantized": {name: values[metric] for name, values in quantized.items()},
        "seconds": round(time.monotonic() - began, 2),
    }
    save_analysis(analysis, workdir / "analysis.npz")
    write_result(result, workdir)
    return result


def quantize(prepared: Prepared, params: Any) -> dict[str, Quantized]:
    """The model under every scheme of the config: under the one that the run was trained under with its learned ranges,
    under the others with ranges calibrated on training data."""
    config, trained = prepared.experiment.quantization, trained_schemes(prepared, params)
    params = floating_point(prepared, params)

    def under(scheme: str) -> Quantized:
        if scheme in trained:
            return trained[scheme]
        recipe = config.make_recipe(scheme, prepared.module.config)
        return calibrate(
            prepared.module,
            params,
            recipe,
            prepared.calibration(),
            config.calibration_batches,
            METHODS[config.method](),
        )

    return {scheme: under(scheme) for scheme in config.schemes}


def method_of(prepared: Prepared, scheme: str) -> str:
    """How `quantize` quantizes to a scheme: a name in `METHODS`, or `LEARNED` under the scheme that the run was trained
    under."""
    trained = prepared.qat is not None and scheme == prepared.experiment.qat.scheme
    return LEARNED if trained else prepared.experiment.quantization.method


def with_ranges(prepared: Prepared, params: Any, file: Path) -> dict[str, Quantized]:
    """The model under the scheme and by the method of a file of ranges, which must be the config's (see `load_ranges`).

    Raises:
      QtxError: if they are not, or the ranges are of another model, checkpoint, recipe or scheme.
    """
    config, saved = prepared.experiment.quantization, read_ranges(file)
    if saved.scheme not in config.schemes:
        raise QtxError(
            f"{file} holds ranges of {saved.scheme}, and the config says {', '.join(config.schemes)}: give "
            f"--scheme={saved.scheme}, or calibrate anew, without --ranges"
        )
    method = method_of(prepared, saved.scheme)
    if saved.method != method:
        how = "" if LEARNED in (saved.method, method) else f"give --method={saved.method}, or "
        raise QtxError(
            f"{file} holds ranges of method {saved.method}, and the config says {method}: {how}calibrate anew, without "
            "--ranges"
        )
    recipe = config.make_recipe(saved.scheme, prepared.module.config)
    example = next(iter(prepared.data.evaluation(1)))
    return {saved.scheme: load_ranges(prepared.module, floating_point(prepared, params), recipe, example, saved)}


def first_scheme(prepared: Prepared, params: Any) -> Quantized:
    """The model under the config's first scheme."""
    config = prepared.experiment.quantization
    first = dataclasses.replace(config, schemes=config.schemes[:1])
    experiment = dataclasses.replace(prepared.experiment, quantization=first)
    return quantize(dataclasses.replace(prepared, experiment=experiment), params)[config.schemes[0]]


def find_sensitivity(
    prepared: Prepared, params: Any, track: Callable[[Sequence[Target]], Iterable[Target]] = iter
) -> Sweep:
    """What each tensor costs under the config's first scheme, on its `sensitivity_batches` held-out batches."""
    config, objective = prepared.experiment.quantization, OBJECTIVES[prepared.experiment.objective]
    quantized = first_scheme(prepared, params)
    batches = list(itertools.islice(prepared.evaluation(), config.sensitivity_batches))

    def metric_of(model: Quantized) -> float:
        return add_up(functools.partial(model_sums, model), batches)[objective.metric]

    return sweep(
        quantized,
        floating_point(prepared, params),
        batches,
        metric_of,
        scheme=config.schemes[0],
        metric=objective.metric,
        lower_is_better=objective.lower_is_better,
        track=track,
    )


def token_text(data: Data) -> Callable[[int], str] | None:
    """Token identity to text, for labels; None for data without a tokenizer."""
    tokenizer = data.tokenizer
    return None if tokenizer is None else lambda token: tokenizer.tokens([token])[0]


def write_result(result: Result, workdir: Path) -> None:
    """Writes a run's results.json, whole or not at all."""
    temporary = workdir / "results.json.new"
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    os.replace(temporary, workdir / "results.json")


def read_result(workdir: Path) -> Result | None:
    """A run's results.json, if there is one."""
    file = workdir / "results.json"
    return json.loads(file.read_text()) if file.exists() else None


def metrics_of(prepared: Prepared, model: FloatingPoint | Quantized | IntegerModel) -> dict[str, float]:
    """Loss, perplexity and accuracy of a model on the held-out data."""
    return add_up(functools.partial(model_sums, model), prepared.evaluation())


@jax.jit
def model_sums(model: FloatingPoint | Quantized | IntegerModel, batch: dict[str, jax.Array]) -> Sums:
    return cross_entropy_sums(model.apply(batch), batch["labels"], batch["weights"])
