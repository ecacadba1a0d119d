"""This module exports a trained run: as an integer model, or as a Hugging Face checkpoint."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from shlex import quote

from qtx.experiment import record
from qtx.interop import save as save_huggingface
from qtx.interop.original import has_place_for
from qtx.interop.pixels import PREPROCESSOR, pixel_options, processor_of
from qtx.interop.stored import open_folder
from qtx.pipeline.classes import known_classes
from qtx.pipeline.identity import kept_files
from qtx.pipeline.quantize import origin_of_ranges, under
from qtx.pipeline.start import original_of, starts
from qtx.pipeline.trained import TrainedRun
from qtx.quantization.integer import convert, save
from qtx.training import RunFolder
from qtx.training.run_folder import IDENTITY


def export_int8(run: TrainedRun, folder: Path, scheme: str) -> list[str]:
    """Writes an integer model and the config to evaluate it with; returns lines to tell the user."""
    prepared, model = run.prepared, convert(under(run, scheme))
    save(model, folder)
    files = kept_files(prepared.experiment, prepared.module.config, prepared.data)
    experiment = prepared.experiment
    if prepared.teacher is not None and not experiment.start:  # an imported run is its own original
        experiment = dataclasses.replace(experiment, start=str(run.workdir))
    RunFolder(folder).claim({**record(experiment), IDENTITY: prepared.identity}, files)
    floating = ", ".join(model.in_floating_point) or "nothing"
    return [
        f"{scheme}: {origin_of_ranges(prepared, scheme)}",
        f"matrix products in floating point: {floating}",
        f"next: qtx evaluate --workdir={quote(str(folder))}",
    ]


def export_huggingface(run: TrainedRun, folder: Path, scheme: str | None = None) -> list[str]:
    """Writes a Hugging Face checkpoint, in floating point whatever the scheme; returns lines to tell the user. An
    imported model keeps its original's format, unless that has no place for the model's attention."""
    prepared, config = run.prepared, run.prepared.experiment.model
    original, told = original_of(prepared.experiment, run.workdir), []
    if original is not None and has_place_for(open_folder(original), config.attention):
        told = [f"names, types and tokenizer are those of {original}"]
    elif original is not None:
        told = [f"{original} is timm's, which computes the plain softmax alone: this is a checkpoint of transformers"]
        original = None
    names = prepared.data.classes
    if original is None and names is None and "num_classes" in config.from_data:  # no original names the classes
        names = known_classes(starts(prepared.experiment, run.workdir), prepared.experiment.objective)
    learned = bool(prepared.experiment.start) and not prepared.objective.taught
    save_huggingface(folder, config, run.floating_point, original, names, learned, _with_it(run, original))
    return told


def _with_it(run: TrainedRun, original: Path | None) -> dict[str, bytes]:
    """Returns the files beside a checkpoint that its original lacks: the tokenizer of a run's texts, or the options of
    an image processor that makes the run's pixels, unless the original's make the same."""
    data = run.prepared.data
    files = {} if original is not None or data.tokenizer is None else data.tokenizer.for_export()
    if data.pixels is None or not run.own_data:
        return files
    stored = None if original is None else open_folder(original)
    if stored is not None and stored.checkpoint is stored.family.timm:
        return files  # timm has these options in config.json
    if stored is None or pixel_options(stored, data.pixels["image_size"], data.pixels["channels"]) != data.pixels:
        files[PREPROCESSOR] = json.dumps(processor_of(data.pixels), indent=2).encode() + b"\n"
    return files


FORMATS = {"int8": export_int8, "huggingface": export_huggingface}
