"""What is done to one run: train it, restore it, measure it in floating point, quantize it and measure again.

The measuring functions are compiled once per model and shape, not once per run: runs of a comparison that differ in
their seed share them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qtx.analysis.analysis import Analysis, analyse, load_analysis, save_analysis
from qtx.analysis.capture import FloatingPoint
from qtx.analysis.sensitivity import Sweep, Target, sweep
from qtx.data import Data
from qtx.experiment import Experiment, record
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import sealed_json
from qtx.pipeline.measurements import add as add_measurements
from qtx.pipeline.measurements import as_result, calibration_options
from qtx.pipeline.prepare import Prepared
from qtx.pipeline.train import train
from qtx.quantization import Quantized, calibrate
from qtx.quantization.files import LEARNED, load_ranges, read_ranges
from qtx.quantization.integer import IntegerModel
from qtx.quantization.recipes.recorded import read_entries
from qtx.report.results import Result
from qtx.training import NEWEST, OBJECTIVES, RunFolder, load_params
from qtx.training.evaluate import add_up
from qtx.training.objectives import Sums, cross_entropy_sums
from qtx.training.run_folder import IDENTITY, other_contents

# Where the ranges of a quantized model are from.
CALIBRATED = "calibrated"


def train_run(prepared: Prepared, workdir: Path, profile: bool = False) -> Any:
    """Trains, resumes, or takes the finished run in `workdir`; returns its parameters, those of `prepared.qat` if there
    is one."""
    return train(prepared.experiment, workdir, prepared.data, profile).params


def check_run(experiment: Experiment, workdir: Path) -> None:
    """Raises QtxError unless `workdir` holds a run of this experiment, on whatever data."""
    folder = RunFolder(workdir)
    folder.check(folder.read_config(), record(experiment), other_data=True)


def keep_quantization(prepared: Prepared, workdir: Path) -> None:
    """Records the experiment's quantization in the run's folder, with the rules of a recipe of the user's own: what is
    done to the run next is done under it."""
    folder, quantization = RunFolder(workdir), prepared.experiment.quantization
    rules = quantization.recorded_rules(quantization.schemes, prepared.module.config)
    if rules:
        earlier = read_entries(folder.recipe) if folder.recipe.exists() else {}
        folder.write(folder.recipe.name, sealed_json({**earlier, **rules}).decode())
    folder.write_config({**folder.read_config(), "quantization": record(prepared.experiment)["quantization"]})


def uses_own_data(prepared: Prepared, workdir: Path, named: bool) -> bool:
    """Whether the data are those that the run in `workdir` was trained on.

    Args:
      prepared: the experiment, which `check_run` has passed.
      workdir: the run's folder.
      named: whether the user has named the data, and knows that they may be others.

    Raises:
      QtxError: if they are not, and nobody said so; or are cut by another tokenizer.
    """
    there = RunFolder(workdir).read_config()
    other = other_contents(there, {IDENTITY: prepared.identity})
    # What names other data on the command line, a config file included, says so too.
    named = named or record(prepared.experiment)["data"] != there["data"]
    if other and (not named or prepared.identity.get("tokenizer") != there[IDENTITY].get("tokenizer")):
        raise QtxError(
            f"{workdir} was trained on other data: config.data is the same, but what it names has another content: "
            f"{', '.join(other)}; restore it, or name the data to measure on, e.g. --config.data.source="
            f"{prepared.experiment.data.source}"
        )
    return not other


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
    prepared: Prepared,
    params: Any,
    schemes: Mapping[str, Quantized],
    workdir: Path,
    variant: str,
    began: float,
    *,
    checkpoint: int,
    ranges: str = CALIBRATED,
    own_data: bool = True,
) -> Result:
    """Loss, metric and outliers of a run on the held-out data, in floating point and as quantized.

    Adds to `results.json` (see `qtx.pipeline.measurements`), and writes `analysis.npz`, what the report draws of the
    run.

    Args:
      prepared: the experiment.
      params: its parameters, of `train_run` or `restore_run`.
      schemes: of `quantize`, the first of which is drawn in the report; empty to measure in floating point, and under
        the scheme that the run was trained under, if it was.
      workdir: the run's folder.
      variant: name of its attention in tables.
      began: when the work on the run began, by `time.monotonic()`; what it took is reported.
      checkpoint: updates done at these parameters.
      ranges: where those of `schemes` are from: calibrated, or a file; those of a scheme that the run was trained under
        are learned.
      own_data: whether the data are those that the run was trained on; the report draws no others.
    """
    trained = trained_schemes(prepared, params)
    schemes, params = trained | dict(schemes), floating_point(prepared, params)
    model = FloatingPoint(prepared.module, params)
    metrics = metrics_of(prepared, model)
    first = next(iter(schemes.values()), None)
    analysis = analyse(
        prepared.module, params, prepared.evaluation(), token_text=token_text(prepared.data), quantized=first
    )
    quantized = {name: metrics_of(prepared, model) for name, model in schemes.items()}
    head = {
        "variant": variant,
        "seed": prepared.experiment.seed,
        "parameters": prepared.parameters,
        "metric": OBJECTIVES[prepared.experiment.objective].metric,
    }
    data = {"own": own_data, "description": prepared.data.description, **prepared.data.digests}
    used, total = prepared.held_out_batches
    conditions = {"checkpoint": checkpoint, "data": data, "held_out_batches": {"used": used, "of": total}}
    config = record(prepared.experiment)["quantization"]
    seconds = round(time.monotonic() - began, 2)
    measurements = [{**conditions, "scheme": "fp", "values": {**metrics, **analysis.metrics, "seconds": seconds}}]
    for scheme, values in quantized.items():
        how = {
            "method": method_of(prepared, scheme),
            "ranges": LEARNED if schemes[scheme] is trained.get(scheme) else ranges,
            "options": calibration_options(config),
        }
        measurements.append({**conditions, "scheme": scheme, **how, "values": values})
    if own_data:
        save_analysis(_with_earlier_histograms(analysis, workdir), workdir / "analysis.npz")
    add_measurements(RunFolder(workdir), head, measurements)
    return as_result(head, measurements)


def _with_earlier_histograms(analysis: Analysis, workdir: Path) -> Analysis:
    """An analysis in floating point alone, with the quantized histograms that an earlier one of the same values had."""
    file = workdir / "analysis.npz"
    if analysis.quantized_histograms or not file.is_file():
        return analysis
    with contextlib.suppress(QtxError):
        earlier = load_analysis(file)
        if jax.tree.all(jax.tree.map(np.array_equal, earlier.histograms, analysis.histograms)):
            return dataclasses.replace(analysis, quantized_histograms=earlier.quantized_histograms)
    return analysis


def quantize(prepared: Prepared, params: Any) -> dict[str, Quantized]:
    """The model under every scheme of the config: under the one that the run was trained under with its learned ranges,
    under the others with ranges calibrated on training data."""
    return {scheme: under(prepared, params, scheme) for scheme in prepared.experiment.quantization.schemes}


def under(prepared: Prepared, params: Any, scheme: str) -> Quantized:
    """The model under one scheme; see `quantize`."""
    trained = trained_schemes(prepared, params)
    if scheme in trained:
        return trained[scheme]
    config = prepared.experiment.quantization
    return calibrate(
        prepared.module,
        floating_point(prepared, params),
        config.make_recipe(scheme, prepared.module.config),
        prepared.calibration(),
        config.calibration_batches,
        config.make_method(),
    )


def method_of(prepared: Prepared, scheme: str) -> str:
    """How `quantize` quantizes to a scheme: the config's method, as it names it, or `LEARNED` under the scheme that the
    run was trained under."""
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


def one_scheme(experiment: Experiment, named: bool) -> str:
    """The scheme of a command that takes one: the config's first; of a run of quantization-aware training the one that
    it was trained under, unless the user has `named` schemes."""
    return experiment.qat.scheme if experiment.qat.start and not named else experiment.quantization.schemes[0]


def origin_of_ranges(prepared: Prepared, scheme: str) -> str:
    """Where the ranges of `under` are from, in words."""
    method = method_of(prepared, scheme)
    if method == LEARNED:
        return "ranges learned in training"
    anew = "" if prepared.qat is None else f" anew (the run was trained under {prepared.experiment.qat.scheme})"
    return f"ranges calibrated{anew}, method {method}"


def find_sensitivity(
    prepared: Prepared, params: Any, scheme: str, track: Callable[[Sequence[Target]], Iterable[Target]] = iter
) -> Sweep:
    """What each tensor costs under a scheme, on the config's `sensitivity_batches` held-out batches."""
    config, objective = prepared.experiment.quantization, OBJECTIVES[prepared.experiment.objective]
    quantized = under(prepared, params, scheme)
    batches = list(itertools.islice(prepared.evaluation(), config.sensitivity_batches))

    def metric_of(model: Quantized) -> float:
        return add_up(functools.partial(model_sums, model), batches)[objective.metric]

    return sweep(
        quantized,
        floating_point(prepared, params),
        batches,
        metric_of,
        scheme=scheme,
        metric=objective.metric,
        lower_is_better=objective.lower_is_better,
        track=track,
    )


def token_text(data: Data) -> Callable[[int], str] | None:
    """Token identity to text, for labels; None for data without a tokenizer."""
    tokenizer = data.tokenizer
    return None if tokenizer is None else lambda token: tokenizer.tokens([token])[0]


def metrics_of(prepared: Prepared, model: FloatingPoint | Quantized | IntegerModel) -> dict[str, float]:
    """Loss, perplexity and accuracy of a model on the held-out data."""
    return add_up(functools.partial(model_sums, model), prepared.evaluation())


@jax.jit
def model_sums(model: FloatingPoint | Quantized | IntegerModel, batch: dict[str, jax.Array]) -> Sums:
    return cross_entropy_sums(model.apply(batch), batch["labels"], batch["weights"])
