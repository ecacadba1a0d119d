"""This module exports a run as ONNX graphs: in floating point, and quantized, in a folder as people load them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from qtx import __version__
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import write_whole
from qtx.pipeline.export import export_huggingface
from qtx.pipeline.quantize import origin_of_ranges, under
from qtx.pipeline.run import TrainedRun

FOLDER, FLOATING, QUANTIZED = "onnx", "model.onnx", "model_quantized.onnx"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
PRECISION = "unsigned activations by signed weights: without VNNI, set session.x64quantprecision=1"


def export_onnx(run: TrainedRun, folder: Path, scheme: str) -> list[str]:
    """Writes `onnx/model.onnx`, `onnx/model_quantized.onnx` and what goes with a checkpoint beside them but its
    weights; returns lines to tell the user.

    Raises:
      QtxError: if onnx is not installed, or the model, the method or the scheme has no form in ONNX.
    """
    graphs, told = graphs_of(run, scheme)
    with tempfile.TemporaryDirectory() as place:
        notes = export_huggingface(run, Path(place))
        left = {file for pattern in WEIGHTS for file in Path(place).glob(pattern)}
        beside = [file for file in Path(place).rglob("*") if file.is_file() and file not in left]
        write_whole({folder / file.relative_to(place): file.read_bytes() for file in beside})
    return [*notes, *told, *write_graphs(graphs, folder)]


def graphs_of(run: TrainedRun, scheme: str) -> tuple[dict[str, Any], list[str]]:
    """Returns the two graphs by their files' names, and lines to tell the user; errors are those of `export_onnx`."""
    try:
        from qtx.onnx.convert import to_onnx
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise QtxError("onnx is not installed, which writes ONNX files: pip install onnx") from None
    assembled = run.assembled
    told = {"qtx": __version__, "model": assembled.experiment.name}
    floating = to_onnx(assembled.module, run.floating_point, metadata=told)
    told |= {"scheme": scheme, "recipe": assembled.experiment.quantization.recipe, "integers": PRECISION}
    quantized = to_onnx(assembled.module, run.floating_point, under(run, scheme), told)
    return {FLOATING: floating.model, QUANTIZED: quantized.model}, [
        f"{scheme}: {origin_of_ranges(assembled, scheme)}",
        f"linear layers in floating point: {', '.join(quantized.in_floating_point) or 'none'}",
    ]


def write_graphs(graphs: dict[str, Any], folder: Path) -> list[str]:
    """Writes graphs by their files' names, all or none, and returns lines that tell their sizes."""
    from qtx.onnx import files

    sizes = files.save(graphs, folder / FOLDER)
    return [f"{folder / FOLDER / name}: {size / 1e6:.1f} MB" for name, size in sizes.items()]
