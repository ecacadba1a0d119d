"""This module exports a run as ONNX graphs: in floating point, and quantized, in a folder as people load them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from qtx import __version__
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import write_whole
from qtx.pipeline.export import export_huggingface
from qtx.pipeline.quantize import origin_of_ranges, under
from qtx.pipeline.run import TrainedRun

FOLDER, FLOATING, QUANTIZED, ENCODINGS = "onnx", "model.onnx", "model_quantized.onnx", "model.encodings"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
PRECISION = "unsigned activations by signed weights: without VNNI, set session.x64quantprecision=1"


class Graphs(NamedTuple):
    """The graphs of a model, by their files' names, and the content of the file of encodings, if it has any."""

    models: dict[str, Any]
    encodings: bytes | None


def export_onnx(run: TrainedRun, folder: Path, scheme: str) -> list[str]:
    """Writes `onnx/model.onnx`, `onnx/model_quantized.onnx`, `onnx/model.encodings` where the format has a place for
    the quantization, and what goes with a checkpoint beside them but its weights; returns lines to tell the user.

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


def graphs_of(run: TrainedRun, scheme: str) -> tuple[Graphs, list[str]]:
    """Returns the two graphs and the encodings, and lines to tell the user; errors are those of `export_onnx`."""
    try:
        from qtx.onnx.convert import to_onnx
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise QtxError("onnx is not installed, which writes ONNX files: pip install onnx") from None
    from qtx.onnx.encodings import encodings_of

    assembled, model = run.assembled, under(run, scheme)
    told = {"qtx": __version__, "model": assembled.experiment.name}
    floating = to_onnx(assembled.module, run.floating_point, metadata=told)
    told |= {"scheme": scheme, "recipe": assembled.experiment.quantization.recipe, "integers": PRECISION}
    if assembled.experiment.quantization.exempt:
        told["exempt"] = ", ".join(assembled.experiment.quantization.exempt)
    quantized = to_onnx(assembled.module, run.floating_point, model, told)
    lines = [
        f"{scheme}: {origin_of_ranges(assembled, scheme)}",
        f"linear layers in floating point: {', '.join(quantized.in_floating_point) or 'none'}",
    ]
    try:
        encodings = encodings_of(floating, run.floating_point, quantized, model)
    except QtxError as error:  # the graphs are there
        encodings = None
        lines.append(f"no {ENCODINGS}: {error}")
    return Graphs({FLOATING: floating.model, QUANTIZED: quantized.model}, encodings), lines


def write_graphs(graphs: Graphs, folder: Path) -> list[str]:
    """Writes graphs and encodings, all or none, and no earlier ones stay; returns lines that tell their sizes."""
    from qtx.onnx import files

    sizes = files.save(graphs.models, folder / FOLDER, {ENCODINGS: graphs.encodings})
    return [f"{folder / FOLDER / name}: {size / 1e6:.1f} MB" for name, size in sizes.items()]
