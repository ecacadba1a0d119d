"""Calibrated ranges as a file: `weights|activations/<path>/bits|minimum|maximum`, one safetensors array each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from qtx.errors import QtxError
from qtx.quantization.calibration import Quantized, check_finite, initial_state, planned_weights, site_ranges
from qtx.quantization.recipe import Recipe
from qtx.quantization.weights import Ranges, quantize_weights, weight_ranges

FOLDERS = {"weights": "weight", "activations": "activation"}


def save_ranges(quantized: Quantized, file: Path) -> None:
    """Writes every range of a model, whole or not at all."""
    tensors = {
        f"{folder}/{path}/{name}": np.asarray(value)
        for folder, kind in FOLDERS.items()
        for path, values in quantized.ranges(kind).items()
        for name, value in values.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".new")
    save_file(tensors, temporary)
    os.replace(temporary, file)


def load_ranges(module: nn.Module, params: Any, recipe: Recipe, batch: dict[str, Any], file: Path) -> Quantized:
    """The model with the ranges of a file instead of calibrated ones; weights are rounded to nearest.

    Args:
      module, params: a model and its parameters.
      recipe: that the ranges were calibrated for.
      batch: any; for shapes alone.
      file: of `save_ranges`.

    Raises:
      QtxError: if the file is missing or damaged, or its ranges are those of another model, recipe or scheme.
    """
    if not file.is_file():
        raise QtxError(f"there is no file of ranges {file}: `qtx quantize` writes ranges/<scheme>.safetensors")
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise QtxError(f"{file} is not a whole safetensors file ({error}): copy it again, or calibrate anew") from None
    weight_plan, bits = planned_weights(params, recipe)
    estimated = jax.eval_shape(lambda p, b: weight_ranges(weight_plan, p, b, {}), params, bits)
    plan, state = initial_state(module, params, recipe, batch, estimated, {})
    expected = {
        "weights": {p: {**r, "bits": bits[p]} for p, r in estimated.items()},
        "activations": site_ranges(plan, state),
    }
    ranges: dict[str, Ranges] = {folder: {} for folder in FOLDERS}
    for folder, of_folder in expected.items():
        for path, r in of_folder.items():
            ranges[folder][path] = {
                name: _checked(tensors, f"{folder}/{path}/{name}", like, file, exact=name == "bits")
                for name, like in r.items()
            }
    if tensors:
        raise QtxError(f"{file} has {sorted(tensors)[0]}, which this model and recipe do not: they belong to another")
    for folder, kind in FOLDERS.items():
        check_finite(ranges[folder], kind)
    rounded = quantize_weights(weight_plan, params, ranges["weights"])
    return Quantized(module, rounded, weight_plan, plan, ranges["weights"], ranges["activations"])


def _checked(tensors: dict[str, np.ndarray], name: str, like: Any, file: Path, exact: bool) -> jax.Array:
    """Takes one array out of `tensors`; `exact`: its values must be those of `like`, not only its shape."""
    if name not in tensors:
        raise QtxError(f"{file} has no {name}: it holds the ranges of another model or recipe; calibrate this one")
    value = tensors.pop(name)
    if value.shape != like.shape:
        raise QtxError(
            f"{file}: {name} has shape {value.shape}, expected {like.shape}: it holds the ranges of another model"
        )
    if exact and not np.array_equal(value, like):
        raise QtxError(
            f"{file}: {name} is {value.ravel()[0]:g}, expected {np.ravel(like)[0]:g}: choose its --scheme, or "
            "calibrate anew"
        )
    return jnp.asarray(value)
