"""This module gives the verdicts of `qtx.judge`: how near int8 leaves models to what they are in floating point."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qtx.foundation.errors import QtxError
from qtx.foundation.numbers import fixed
from qtx.interop.carried import MODULES
from qtx.interop.sentence import Modules, read_modules

WEIGHTS: dict[str, dict[str, Any]] = {"per tensor": {}, "per channel": {"per_channel": True}}
PACKAGES = "torch transformers onnx onnxruntime onnxscript"


def verdicts(folders: Sequence[Path], text: str) -> Iterator[dict[str, Any]]:
    """Yields a line for each folder and granularity of the weights.

    Args:
      folders: checkpoints of encoders, or of models with one kind of head, the original first.
      text: what is cut into the texts for calibration, and into those that are measured on.

    Raises:
      QtxError: for a package that is not installed, a folder without a model or with another tokenizer than the first,
        or too short a text.
    """
    try:
        from qtx.judge import quantizer
    except ImportError as error:
        raise QtxError(f"{error}: pip install {PACKAGES}") from None
    for folder in folders:
        if not (folder / "config.json").is_file():
            raise QtxError(f"{folder} has no config.json: expected a folder of `qtx export --format=huggingface`")
    prompt = quantizer.prompt_of(folders[0])
    calibration, held_out = quantizer.cut(folders[0], text, prompt)
    for folder in folders[1:]:
        if not np.array_equal(quantizer.cut(folder, text, prompt)[1], held_out):
            raise QtxError(f"{folder} has another tokenizer than {folders[0]}: judge them in commands of their own")
    modules = read_modules(folders[0]) if (folders[0] / MODULES).is_file() else Modules("mean", False)
    head = quantizer.head_of(folders[0])
    # The sizes of a head's outputs may be all that they say: there is no mean of one cosine per text.
    near, first = centred_cosine if head else mean_cosine, None

    def read(file: Path, folder: Path) -> np.ndarray:
        found = quantizer.outputs(file, held_out)
        return found.reshape(-1, found.shape[-1]) if head else quantizer.embed(found, len(prompt), modules, folder)

    for folder in folders:
        with tempfile.TemporaryDirectory() as scratch:
            exported, prepared, quantized = (Path(scratch, f"{name}.onnx") for name in ("exported", "prepared", "int8"))
            quantizer.export(folder, exported, head)
            quantizer.prepare(exported, prepared)
            own = read(exported, folder)
            first = own if first is None else first
            for weights, options in WEIGHTS.items():
                quantizer.quantize(prepared, quantized, calibration, options)
                int8 = read(quantized, folder)
                yield {
                    "folder": str(folder),
                    "texts": len(held_out),
                    "weights": weights,
                    "int8_to_own_fp": float(fixed(near(int8, own))),
                    "centred": float(fixed(centred_cosine(int8, own))),
                    "int8_to_first_fp": float(fixed(near(int8, first))),
                    "fp_to_first_fp": float(fixed(near(own, first))),
                    "on_grids": quantizer.on_grids(quantized),
                    "quantizer": quantizer.VERSION,
                }


def mean_cosine(x: np.ndarray, y: np.ndarray) -> float:
    """Computes the mean cosine of the rows of `x` to those of `y`, both `[N, D]`."""
    return float(((x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))).mean())


def centred_cosine(x: np.ndarray, y: np.ndarray) -> float:
    """Computes the cosine of all of `x` to all of `y`, both `[N, D]`, each without its mean over the rows; 0 of rows
    that are all the same."""
    x, y = (z - z.mean(axis=0) for z in (x, y))
    product = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float((x * y).sum()) / product if product else 0.0
