"""This module diagnoses one model: its outliers, its idle heads, what quantization costs, where, and what costs less.

Everything is measured on the same few held-out examples, in batches of one shape, and compiled as rarely as possible:
which tensors are quantized, to how many bits and in which ranges is data.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn

from qtx.analysis.capture import FloatingPoint
from qtx.analysis.diagnosis import Diagnosis, Measured, Spiking, find_heads, find_map, find_outliers
from qtx.analysis.observation import observe_model
from qtx.analysis.sensitivity import costliest, sweep, targets, with_some
from qtx.analysis.writers import Writer, spike_writers
from qtx.anatomy import read as read_anatomy
from qtx.data import Data, load
from qtx.data.classes import UnknownLabel
from qtx.experiment import Experiment
from qtx.families.in_words import model_in_words
from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError
from qtx.pipeline.assemble import Assembled, assemble
from qtx.pipeline.embeddings import told_of_embeddings
from qtx.pipeline.identity import load_data, origin
from qtx.pipeline.importing import BUILTIN, Found, classes_of, import_run
from qtx.pipeline.measure import sums_of, token_text
from qtx.pipeline.run import TrainedRun, check_run, restore_run, uses_own_data
from qtx.quantization import QuantizationConfig, Quantized, calibrate, float32_only
from qtx.quantization.plan import settled
from qtx.training import RunFolder
from qtx.training.distillation import Teacher
from qtx.training.evaluate import add_up
from qtx.training.relief import can_be_scaled, scaled_unit
from qtx.training.sharding import batch_shards

MOST_EXAMPLES, FEWEST_EXAMPLES = 64, 16
PARAMETERS = 25_000_000
"""The size of the largest model that is measured on most examples; larger ones take fewer, so that they take no longer
as long as the fewest allow."""
BATCH = 4
CALIBRATION_BATCHES = 4
COSTLIEST = 5
SWEPT = 4
"""The costliest tensors are searched on one batch, and measured on one in four."""
SHOWN_HEADS = 4
SPIKING, SHOWN_WRITERS, TENTH = 100.0, 3, 0.1
"""A hidden unit writes a spike if it writes so many times what the median unit of its layer does; so many units are
scaled, and by how much, to see what that does."""

# Other ways to quantize, which the methods' table compares with the config's own, and the options that choose each.
ALTERNATIVES: dict[str, dict[str, Any]] = {
    "weights by MSE": {"weight_estimator": "mse"},
    "percentile": {"activation_estimator": "running_minmax,percentile=99.99"},
    "per_token": {"method": "per_token"},
    "smoothquant": {"method": "smoothquant"},
    "hadamard": {"method": "hadamard"},
}


def diagnose(
    run: TrainedRun,
    examples: int | None = None,
    thorough: bool = False,
    tell: Callable[[str], Any] = lambda step: None,
) -> Diagnosis:
    """Diagnoses a run's model in floating point and quantized after training.

    Args:
      run: the run, from `restore_run`, e.g. an imported one; ranges learned in training are calibrated anew.
      examples: how many held-out examples to measure on, or all if there are fewer; None: as suits the model's size.
      thorough: whether to measure every tensor, and not only those that cost most on the first batch.
      tell: is called with the name of each step as the step begins, to show progress.

    Raises:
      QtxError: if there are too few training data to calibrate on, or the recipe does not fit the model.
    """
    assembled = sampled(run.assembled, examples)
    experiment, module, params = assembled.experiment, assembled.module, run.floating_point
    config = experiment.quantization
    if _has_foreign_labels(assembled):
        by_itself = dataclasses.replace(experiment, objective="distill")
        assembled = dataclasses.replace(
            assembled, experiment=by_itself, teacher=Teacher(float32_only.float32(module), lambda: params)
        )
    objective = assembled.objective
    tell("looking at activations and heads")
    batches, calibration = list(assembled.evaluation()), assembled.calibration()
    observation = observe_model(FloatingPoint(module, params), batches)
    text = token_text(assembled.data) or str
    heads, outliers = find_heads(observation, text), find_outliers(observation, text)

    def quantized(scheme: str, options: QuantizationConfig = config, own: Any = params) -> Quantized:
        recipe = options.make_recipe(scheme, module.config)
        number = options.calibration_batches
        found = calibrate(module, own, recipe, calibration, number, options.make_method())
        plans = settled(found.weight_plan), settled(found.activation_plan)
        return dataclasses.replace(found, weight_plan=plans[0], activation_plan=plans[1])

    def measured(model: Quantized | FloatingPoint, number: int | None = None) -> Measured:
        found = add_up(sums_of(assembled, model), batches[:number])
        return Measured(found[objective.metric], found["loss"])

    scheme, *others = config.schemes
    tell(f"quantizing to {scheme}")
    model = quantized(scheme)
    rewritten = config.make_method().rewrite(module, params)[1]
    ladder = {"fp": measured(with_some(model, rewritten, (), alone=True)), scheme: measured(model)}
    for other in others:
        tell(f"quantizing to {other}")
        ladder[other] = measured(quantized(other))
    methods, left_out = {config.method: ladder[scheme]}, {}
    for name, options in ALTERNATIVES.items():
        tell(f"quantizing to {scheme}: {name}")
        try:
            methods[name] = measured(quantized(scheme, dataclasses.replace(config, **options)))
        except QtxError as error:
            left_out[name] = str(error)

    tell("looking for hidden units that write spikes")
    writers = []
    for one in _spiking(module, params, batches):
        changed = scaled_unit(module, params, one.layer, one.unit, TENTH)
        values = (measured(FloatingPoint(module, changed)).metric, measured(quantized(scheme, own=changed)).metric)
        name = f"{one.site}[{one.layer}], unit {one.unit}"
        writers.append(Spiking(name, one.dimension, one.write, one.ratio, *values))

    def of_tensors(number: int | None) -> Callable[[Quantized], float]:
        return lambda model: measured(model, number).metric

    tell("looking for the tensors that cost most")
    chosen, lower_is_better = targets(model), objective.lower_is_better
    if not thorough:
        chosen = list(itertools.islice(costliest(model, rewritten, of_tensors(1), lower_is_better), COSTLIEST))
    found = sweep(
        model,
        rewritten,
        batches[:1],
        of_tensors(None if thorough else -(-len(batches) // SWEPT)),
        chosen,
        scheme=scheme,
        metric=objective.metric,
        lower_is_better=lower_is_better,
    )
    told = told_of_embeddings(experiment.model, RunFolder(run.workdir).imported)
    embedding = [f"{name} {text}" for name, text in told.items()]
    return Diagnosis(
        name=experiment.name,
        model=", ".join([model_in_words(experiment.model), f"{assembled.parameters:,} parameters", *embedding]),
        data=assembled.data.description,
        examples=len(observation.real),
        length=observation.real.shape[1],
        metric=objective.metric,
        lower_is_better=objective.lower_is_better,
        scheme=scheme,
        outliers=outliers,
        heads=heads,
        ladder=ladder,
        methods=methods,
        left_out=left_out,
        writers=tuple(writers),
        sweep=found,
        thorough=thorough,
        reach={one.name: observation.sites[one.path]["reach"][one.layer or 0] for one in outliers},
        maps=tuple(find_map(observation, role, text) for role in heads[:SHOWN_HEADS]),
    )


def _spiking(module: nn.Module, params: Any, batches: Sequence[Batch]) -> list[Writer]:
    """Returns the hidden units that write most, if any writes a spike and they can be scaled."""
    found = spike_writers(module, params, batches, read_anatomy(module, batches[0]))
    return [one for one in found[:SHOWN_WRITERS] if one.ratio > SPIKING and can_be_scaled(params)]


def examples_for(parameters: int) -> int:
    """Returns on how many examples a model of a size is measured: models above `PARAMETERS` on fewer."""
    return min(MOST_EXAMPLES, max(FEWEST_EXAMPLES, MOST_EXAMPLES * PARAMETERS // parameters))


def open_run(experiment: Experiment, workdir: Path, source: Found | None, names_data: bool = False) -> TrainedRun:
    """Returns the run to diagnose: a checkpoint, imported into `workdir`, or the run there at its newest parameters.

    Images may have labels that the model does not know: its own outputs in floating point then measure the model.

    Args:
      experiment: the experiment, from `config_of_checkpoint` or the run's own.
      workdir: the run's folder.
      source: the checkpoint to import; None: the run in `workdir`.
      names_data: whether the user has named the data.

    Raises:
      QtxError: if model, data and folder do not fit together.
    """
    if source is None:
        check_run(experiment, workdir)
    data, model = _with_any_labels(experiment, workdir, source), experiment.model
    if data.image_size is not None and (data.image_size, data.channels) != (model.image_size, model.channels):
        raise QtxError(
            f"the model takes images of {model.image_size} x {model.image_size} x {model.channels}, and the data has "
            f"{data.image_size} x {data.image_size} x {data.channels}: name images of yours, --config.data.source="
            f"image_folder --config.data.path=FOLDER --config.data.image_size={model.image_size} "
            f"--config.data.channels={model.channels}"
        )
    if source is not None:
        return restore_run(import_run(experiment, workdir, source, data), workdir, "0")
    assembled = assemble(experiment, data, workdir)
    return restore_run(assembled, workdir, own_data=uses_own_data(assembled, workdir, names_data))


def is_run(folder: Path) -> bool:
    """Says whether a folder is a run's, and not a Hugging Face checkpoint, which has a config.json too."""
    run = RunFolder(folder)
    return run.imported.is_dir() or run.checkpoints.is_dir()


def folder_for(checkpoint: str) -> Path:
    """Returns the folder for the run of a checkpoint if the user names none."""
    return Path("runs") / Path(checkpoint.removeprefix(BUILTIN)).resolve().name


def _with_any_labels(experiment: Experiment, workdir: Path, source: Found | None) -> Data:
    """Loads the data for `open_run`; images with labels that the model does not know come without classes."""
    classes = None if source is None else classes_of(experiment, source.folder)
    try:
        return load_data(experiment, origin(experiment, workdir), classes)
    except UnknownLabel:
        if experiment.model.reads != "images" or getattr(experiment.data.source, "classes", None) is not None:
            raise
        data = load(experiment.data, experiment.objective)
        told = "not all labels are the model's: measured by its own outputs"
        return dataclasses.replace(data, description=f"{data.description}; {told}", classes=None)


def _has_foreign_labels(assembled: Assembled) -> bool:
    config = assembled.module.config  # type: ignore[attr-defined]
    return assembled.teacher is None and "num_classes" in config.from_data and assembled.data.num_classes is None


def sampled(assembled: Assembled, examples: int | None = None) -> Assembled:
    """Returns the assembled experiment on a few examples only (None: as suits the model's size), in small batches that
    divide evenly among devices."""
    examples = examples or examples_for(assembled.parameters)
    parts = batch_shards(assembled.mesh)
    size = -(-BATCH // parts) * parts
    training = dataclasses.replace(
        assembled.experiment.training, batch_size=size, accumulation_steps=1, eval_batches=-(-examples // size)
    )
    quantization = dataclasses.replace(assembled.experiment.quantization, calibration_batches=CALIBRATION_BATCHES)
    experiment = dataclasses.replace(assembled.experiment, training=training, quantization=quantization)
    return dataclasses.replace(assembled, experiment=experiment)
