"""The formats of exports, by name; each is a function (run, folder, scheme) -> lines to tell the user."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qtx.pipeline.export import export_huggingface, export_int8
from qtx.pipeline.export_onnx import export_onnx
from qtx.pipeline.run import TrainedRun

FORMATS: dict[str, Callable[[TrainedRun, Path, str], list[str]]] = {
    "int8": export_int8,
    "huggingface": export_huggingface,
    "onnx": export_onnx,
}
