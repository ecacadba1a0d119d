"""Taking a trained run away: in integers, or as a Hugging Face checkpoint."""

from __future__ import annotations

from pathlib import Path

from qtx.experiment import record
from qtx.interop import save as save_huggingface
from qtx.pipeline.identity import kept_files
from qtx.pipeline.quantize import origin_of_ranges, under
from qtx.pipeline.trained import TrainedRun
from qtx.quantization.integer import convert, save
from qtx.training import RunFolder
from qtx.training.run_folder import IDENTITY


def export_int8(run: TrainedRun, folder: Path, scheme: str) -> list[str]:
    """Writes an integer model and the config that evaluates it; returns what to tell of it."""
    prepared, model = run.prepared, convert(under(run, scheme))
    save(model, folder)
    files = kept_files(prepared.experiment, prepared.module.config, prepared.data)
    RunFolder(folder).claim({**record(prepared.experiment), IDENTITY: prepared.identity}, files)
    floating = ", ".join(model.in_floating_point) or "nothing"
    return [
        f"{scheme}: {origin_of_ranges(prepared, scheme)}",
        f"matrix products in floating point: {floating}",
        f"next: qtx evaluate --workdir={folder}",
    ]


def export_huggingface(run: TrainedRun, folder: Path, scheme: str) -> list[str]:
    """Writes a Hugging Face checkpoint, in floating point; returns what to tell of it."""
    save_huggingface(folder, run.prepared.module.config, run.floating_point)
    return []


FORMATS = {"int8": export_int8, "huggingface": export_huggingface}
