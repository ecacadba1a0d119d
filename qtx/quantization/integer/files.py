"""An integer model as two files: `model.safetensors`, every array by its path, and `integer.json`, what is static."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from qtx.foundation.config import flattened
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import (
    Expected,
    digest,
    read_sealed_json,
    read_sealed_safetensors,
    sealed_json,
    sealed_safetensors,
    write_whole,
)
from qtx.models import COMPUTATION, OF_TRAINING
from qtx.quantization.integer.convert import for_inference
from qtx.quantization.integer.model import IntegerModel, Tensors, as_table
from qtx.quantization.plan import flatten

WEIGHTS = "model.safetensors"
DESCRIPTION = "integer.json"
EXPECTED = Expected(f"part of an integer model's folder, {WEIGHTS} and {DESCRIPTION}", "export the model anew")
FORMAT = 3
"""The format of both files: a new number where a reader of the old format could not read the new one."""


def save(model: IntegerModel, folder: str | Path) -> None:
    """Writes `model.safetensors`, then `integer.json` with the weights' SHA-256; both whole or not at all.

    Kernels are int8, and so are the embedding tables that the recipe quantizes, except for one that the head is tied
    to: it is stored once, in float32, since the head needs it unquantized and its look-ups are rounded from it.

    Args:
      model: from `convert`.
      folder: where to write; is made if it does not exist.
    """
    folder = Path(folder)
    groups = {"params": model.params, "integers": model.integers}
    tensors = {f"{group}/{path}": np.asarray(x) for group, named in groups.items() for path, x in named.items()}
    values = {
        "format": FORMAT,
        "model": _kind(model.module),
        "config": _config(model.module),
        "bits": _bits(model.integers),
        "in_floating_point": list(model.in_floating_point),
        "weights": digest(tensors),
    }
    write_whole({folder / WEIGHTS: sealed_safetensors(tensors), folder / DESCRIPTION: sealed_json(values)})


def load(module: nn.Module, folder: str | Path) -> IntegerModel:
    """Reads the model that `save` wrote, bit for bit.

    Args:
      module: the model that was converted.
      folder: holds both files.

    Raises:
      QtxError: if a file is missing, damaged or of another format, or belongs to another model.
    """
    folder = Path(folder)
    values = _read_description(folder)
    _check_config(module, values, folder)
    path = folder / WEIGHTS
    tensors, _ = read_sealed_safetensors(path, EXPECTED)
    if digest(tensors) != values["weights"]:
        raise EXPECTED.refusal(path, f"it is not the file that {DESCRIPTION} describes")
    groups: dict[str, Tensors] = {"params": {}, "integers": {}}
    for name, x in tensors.items():
        group, _, tensor = name.partition("/")
        if group not in groups:
            raise EXPECTED.refusal(path, f"it has {name}")
        groups[group][tensor] = jnp.asarray(x)
    problem = misfit(module, tensors)
    if problem is not None:
        raise QtxError(f"{path}: {problem}")
    return IntegerModel(for_inference(module), tuple(values["in_floating_point"]), **groups)


def misfit(module: nn.Module, tensors: Mapping[str, np.ndarray]) -> str | None:
    """Says what keeps arrays from being an integer model of `module`: the first missing or misshapen array; or None."""
    variables = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), module.config.example()))
    for path, leaf in flatten(variables["params"]).items():
        places = (f"params/{path}", f"integers/{path}", f"integers/{as_table(path)}")
        found = {name: tensors[name].shape for name in places if name in tensors}
        if not found:
            return f"lacks {path!r}, which the model has"
        for name, shape in found.items():
            if shape != leaf.shape:
                return f"{name!r} has shape {shape}, but the model's is {leaf.shape}"
    return None


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    values = read_sealed_json(path, EXPECTED)
    if values.get("format") != FORMAT:
        raise EXPECTED.refusal(path, f"it has format {values.get('format')!r}, not {FORMAT}")
    kinds = {"model": str, "config": dict, "in_floating_point": list, "weights": str}
    if not all(isinstance(values.get(name), kind) for name, kind in kinds.items()):
        raise EXPECTED.refusal(path, f"expected {', '.join(kinds)}")
    return values


def _check_config(module: nn.Module, values: dict[str, Any], folder: Path) -> None:
    given, stored = {"config": _kind(module), **_config(module)}, {"config": values["model"], **values["config"]}
    # An option that an earlier version did not write is that of the module, which the folder's config.json describes.
    stored = given | stored
    if isinstance(stored.get("attention"), dict):
        stored["attention"] = given.get("attention", {}) | stored["attention"]
    for name in sorted(stored):
        if given.get(name) != stored[name]:
            raise QtxError(
                f"{folder} holds another model: its {name} is {stored.get(name)!r}, and the model's {given.get(name)!r}"
            )


def _config(module: Any) -> dict[str, Any]:
    """Returns the part of a module's config that decides what the module computes, as JSON would give it back."""
    left_out = {*COMPUTATION, *OF_TRAINING}
    fields = {name: value for name, value in flattened(module.config).items() if name not in left_out}
    return json.loads(json.dumps(fields))


def _kind(module: Any) -> str:
    return type(module.config).__name__


def _bits(integers: Tensors) -> dict[str, list[int]]:
    """Returns the bit-widths in use, for readers of the file: of the kernels, and of the sites and tables."""
    kernels = [x for path, x in integers.items() if path.endswith("/kernel_bits")]
    highs = {path.removesuffix("/high"): x for path, x in integers.items() if path.endswith("/grid/high")}
    sites = [jnp.log2(x - integers[f"{path}/low"] + 1) for path, x in highs.items()]
    return {
        name: sorted({round(float(bits)) for x in found for bits in jnp.ravel(x)})
        for name, found in (("weights", kernels), ("activations_and_tables", sites))
    }
