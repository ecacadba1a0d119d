"""This module exports a trained run: as an integer model, or as a Hugging Face checkpoint."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from shlex import quote

from qtx.experiment import record
from qtx.interop import save as save_huggingface
from qtx.interop.original import has_place_for
from qtx.interop.pixels import PREPROCESSOR, pixel_options, processor_of
from qtx.interop.stored import open_folder
from qtx.pipeline.classes import known_classes
from qtx.pipeline.identity import kept_files
from qtx.pipeline.lineage import original_of, starts
from qtx.pipeline.quantize import origin_of_ranges, under
from qtx.pipeline.run import TrainedRun
from qtx.quantization.integer import convert, save
from qtx.training import RunFolder
from qtx.training.run_folder import IDENTITY

GAINS = {384: (1.39, 1.61), 768: (1.71, 1.82)}
"""How much faster than in float32 encoders of two widths ran, as `benchmarks.integer_matmul` has it on one core: with
every product on integers, and with the linear layers alone."""


def export_int8(run: TrainedRun, folder: Path, scheme: str) -> list[str]:
    """Writes an integer model and the config to evaluate it with; returns lines to tell the user."""
    assembled, quantized = run.assembled, under(run, scheme)
    model = convert(quantized)
    save(model, folder)
    files = kept_files(assembled.experiment, assembled.data)
    experiment = assembled.experiment
    if assembled.teacher is not None and not experiment.start:  # an imported run is its own original
        experiment = dataclasses.replace(experiment, start=str(run.workdir))
    if quantized.module != assembled.module:  # the method has rewritten it
        experiment = dataclasses.replace(experiment, model=quantized.module.config)
    RunFolder(folder).claim({**record(experiment), IDENTITY: assembled.identity}, files)
    floating = ", ".join(model.in_floating_point) or "nothing"
    return [
        f"{scheme}: {origin_of_ranges(assembled, scheme)}",
        f"matrix products in floating point: {floating}",
        expected_speed(assembled.experiment.model.width),
        f"next: qtx evaluate --workdir={quote(str(folder))}",
    ]


def expected_speed(width: int) -> str:
    """Says what was measured of integers in XLA at the width that is nearest to a model's."""
    nearest = min(GAINS, key=lambda one: abs(math.log(one / width)))
    every, linear = GAINS[nearest]
    return (
        f"speed to expect at width {width}: an encoder of width {nearest} ran {every:.2f} times as fast as in "
        f"float32, with linear layers alone on integers (recipe matmul) {linear:.2f} times; ONNX Runtime gains more: "
        "--format=onnx"
    )


def export_huggingface(run: TrainedRun, folder: Path, scheme: str | None = None) -> list[str]:
    """Writes a Hugging Face checkpoint, in floating point whatever the scheme; returns lines to tell the user. An
    imported model keeps its original's format, unless that has no place for the model's attention."""
    assembled, config = run.assembled, run.assembled.experiment.model
    original, told = original_of(assembled.experiment, run.workdir), []
    if original is not None and has_place_for(open_folder(original), config.attention):
        told = [f"names, types and tokenizer are those of {original}"]
    elif original is not None:
        told = [f"{original} is of a kind that computes the plain softmax alone: this is a checkpoint of transformers"]
        original = None
    names = assembled.data.classes
    if original is None and names is None and "num_classes" in config.from_data:  # no original names the classes
        names = known_classes(starts(assembled.experiment, run.workdir), assembled.experiment.objective)
    learned = bool(assembled.experiment.start) and not assembled.objective.taught
    save_huggingface(folder, config, run.floating_point, original, names, learned, _with_it(run, original))
    return told


def _with_it(run: TrainedRun, original: Path | None) -> dict[str, bytes]:
    """Returns the files beside a checkpoint that its original lacks: the tokenizer of a run's texts, or the options of
    an image processor that makes the run's pixels, unless the original's make the same."""
    data = run.assembled.data
    files = {} if original is not None or data.tokenizer is None else data.tokenizer.for_export()
    if data.pixels is None or not run.own_data:
        return files
    stored = None if original is None else open_folder(original)
    if stored is not None and stored.checkpoint.library.pixels is not None:
        return files  # config.json has these options
    if stored is None or pixel_options(stored, data.pixels["image_size"], data.pixels["channels"]) != data.pixels:
        files[PREPROCESSOR] = json.dumps(processor_of(data.pixels), indent=2).encode() + b"\n"
    return files
