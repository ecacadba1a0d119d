"""What is done to one run: train it, restore it, measure it in floating point, quantize it and measure again.

The measuring functions are compiled once per model and shape, not once per run: runs of a comparison that differ in
their seed share them.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from qtx.analysis.analysis import analyse, save_analysis
from qtx.analysis.capture import FloatingPoint
from qtx.data import Data
from qtx.experiment import Experiment, record
from qtx.prepare import Prepared
from qtx.quantization import Quantized, calibrate
from qtx.results import Result
from qtx.training import OBJECTIVES, RunFolder, load_params, train
from qtx.training.evaluate import add_up
from qtx.training.objectives import Sums, cross_entropy_sums


def train_run(prepared: Prepared, workdir: Path) -> Any:
    """Trains, resumes, or takes the finished run in `workdir`; returns its parameters."""
    result = train(prepared.experiment, workdir, prepared.data)
    if prepared.data.tokenizer is not None:
        prepared.data.tokenizer.save(workdir / "tokenizer.json")
    return result.params


def check_run(experiment: Experiment, workdir: Path) -> None:
    """Raises QtxError unless `workdir` holds a run of this experiment."""
    folder = RunFolder(workdir)
    folder.read_config()
    folder.claim(record(experiment), write=False)


def restore_run(prepared: Prepared, workdir: Path) -> Any:
    """The parameters of the last checkpoint of the run in `workdir`.

    Raises:
      QtxError: if there is none, or it is that of another model.
    """
    return load_params(prepared.module, prepared.data, workdir, prepared.experiment.mesh)


def measure(
    prepared: Prepared, params: Any, schemes: Mapping[str, Quantized], workdir: Path, variant: str, began: float
) -> Result:
    """Loss, metric and outliers of a run on the held-out data, in floating point and as quantized.

    Writes `results.json`, and `analysis.npz`, what the report draws of the run.

    Args:
      prepared: the experiment.
      params: its parameters.
      schemes: of `quantize`, the first of which is drawn in the report; empty to measure in floating point alone.
      workdir: the run's folder.
      variant: name of its attention in tables.
      began: when the work on the run began, by `time.monotonic()`; what it took is reported.
    """
    metric = OBJECTIVES[prepared.experiment.objective].metric
    model = FloatingPoint(prepared.module, params)
    metrics = add_up(functools.partial(_sums, model), prepared.evaluation())
    first = next(iter(schemes.values()), None)
    analysis = analyse(
        prepared.module, params, prepared.evaluation(), token_text=token_text(prepared.data), quantized=first
    )
    quantized = {
        name: add_up(functools.partial(_sums, model), prepared.evaluation()) for name, model in schemes.items()
    }
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
    """The model under every scheme of the config, with ranges calibrated on training data."""
    config = prepared.experiment.quantization

    def under(scheme: str) -> Quantized:
        recipe = config.make_recipe(scheme, prepared.module.config)
        return calibrate(prepared.module, params, recipe, prepared.calibration(), config.calibration_batches)

    return {scheme: under(scheme) for scheme in config.schemes}


def save_ranges(quantized: Quantized, scheme: str, workdir: Path) -> Path:
    """Writes the ranges to `ranges/<scheme>.safetensors`: `weights|activations/<path>/bits|minimum|maximum`."""
    tensors = {
        f"{kind}/{path}/{name}": np.asarray(value)
        for kind, ranges in (("weights", quantized.weight_ranges), ("activations", quantized.activation_ranges))
        for path, values in ranges.items()
        for name, value in values.items()
    }
    file = workdir / "ranges" / f"{scheme}.safetensors"
    file.parent.mkdir(exist_ok=True)
    save_file(tensors, file, metadata={"scheme": scheme})
    return file


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


@jax.jit
def _sums(model: FloatingPoint | Quantized, batch: dict[str, jax.Array]) -> Sums:
    return cross_entropy_sums(model.apply(batch), batch["labels"], batch["weights"])
