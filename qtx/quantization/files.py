"""A calibrated model as a file of ranges: with the model's own parameters, all that reproduces it bit for bit.

The file holds, as safetensors, `weights|activations/<path>/bits|minimum|maximum`, ranges, and beside them their bases;
`integers/<path>`, the integers of the weights that are not rounded to nearest; and, as text, the method and the scheme,
how each tensor is quantized, and the fingerprint of the floating-point parameters that the file belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from qtx.anatomy import read
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected, digest, read_sealed_safetensors, sealed_safetensors, write_whole
from qtx.quantization.basis import BASES
from qtx.quantization.calibration import Quantized, initial_state, site_ranges
from qtx.quantization.earlier import words_of_this_version
from qtx.quantization.methods import Method, Problem, Static, make_method
from qtx.quantization.plan import Planned, QuantizerPlan, Range, Ranges, check_finite, flatten, is_table
from qtx.quantization.recipe import FLOAT, Recipe
from qtx.quantization.weights import from_integers, quantize_weights, to_integers, weight_ranges

EXPECTED = Expected("a file of ranges that `qtx quantize` of this version wrote", "calibrate anew, without --ranges")
FOLDERS = {"weights": "weight", "activations": "activation"}
INTEGERS = (np.int8, np.uint8, np.int16, np.uint16)
LEARNED = "qat"
"""The method recorded for a run that was trained under the scheme: ranges learned, weights rounded to nearest."""


class SavedRanges(NamedTuple):
    """The contents of a file of ranges.

    Attributes:
      file: the path of the file.
      method: the text of a method, e.g. "gptq,damping=0.02"; or `LEARNED`.
      scheme: e.g. "w8a8".
      plan: how each tensor is quantized, in words, by kind and path.
      parameters: fingerprint of the floating-point parameters.
      arrays: the ranges and the integers, by name.
    """

    file: Path
    method: str
    scheme: str
    plan: Mapping[str, Mapping[str, str]]
    parameters: str
    arrays: dict[str, np.ndarray]


def save_ranges(quantized: Quantized, params: Any, file: Path, method: str, scheme: str) -> None:
    """Writes a file of ranges, whole or not at all.

    Args:
      quantized: the quantized model.
      params: the model's parameters in floating point.
      file: where to write.
      method, scheme: how the model was quantized.

    Raises:
      QtxError: if a weight is neither rounded to nearest nor on the grid of its range.
    """
    arrays = {
        f"{folder}/{path}/{name}": np.asarray(value)
        for folder, kind in FOLDERS.items()
        for path, values in quantized.ranges(kind).items()
        for name, value in values.items()
    }
    _, rewritten = _method(method).rewrite(quantized.module, params)
    arrays |= {f"integers/{path}": q for path, q in _integers(quantized, rewritten).items()}
    plan = _in_words(quantized.weight_plan, quantized.activation_plan)
    values = {"method": method, "scheme": scheme, "plan": plan, "parameters": _fingerprint(params)}
    write_whole({file: sealed_safetensors(arrays, values)})


def read_ranges(file: Path) -> SavedRanges:
    """Reads a file that `save_ranges` wrote.

    Raises:
      QtxError: if the file is missing, damaged, or of another kind.
    """
    arrays, values = read_sealed_safetensors(file, EXPECTED)
    texts, plan = [values.get(name) for name in ("method", "scheme", "parameters")], values.get("plan")
    if not all(isinstance(text, str) for text in texts) or not isinstance(plan, dict):
        raise EXPECTED.refusal(file, "it does not say what of")
    if plan.keys() != FOLDERS.keys() or not all(isinstance(of_folder, dict) for of_folder in plan.values()):
        raise EXPECTED.refusal(file, "it does not say how each tensor is quantized")
    method, scheme, parameters = map(str, texts)
    return SavedRanges(file, method, scheme, plan, parameters, arrays)


def load_ranges(module: nn.Module, params: Any, recipe: Recipe, batch: dict[str, Any], saved: SavedRanges) -> Quantized:
    """Returns the model that was saved, bit for bit.

    Args:
      module, params: a model and its parameters in floating point.
      recipe: the recipe of the model, before the method adapts it.
      batch: any batch; only its shapes matter.
      saved: from `read_ranges`.

    Raises:
      QtxError: if the ranges are of other parameters, or of another model, recipe or scheme.
    """
    file = saved.file
    if saved.parameters != _fingerprint(params):
        raise QtxError(
            f"{file} holds the ranges of other parameters: choose the --checkpoint that it was made from, or calibrate "
            "anew, without --ranges"
        )
    method = _method(saved.method)
    module, params = method.rewrite(module, params)
    problem = Problem(read(module, batch), module, params, method.adapt(recipe), [batch])
    weight_plan, bits = problem.plan, problem.bits
    estimated = jax.eval_shape(lambda p: weight_ranges(weight_plan, p, bits, {}), params)
    plan, state = initial_state(problem.anatomy, problem.recipe, estimated, {})
    _check_plan(saved, _in_words(weight_plan, plan))
    arrays = dict(saved.arrays)
    flat = flatten(params)
    expected = {
        "weights": {path: {**r, "bits": bits[path]} for path, r in estimated.items()},
        "activations": site_ranges(plan, state),
    }
    # A basis multiplies a kernel's rows, and the last axis of a vector or an activation.
    features = {
        "weights": {path: problem.anatomy.parameters[path].shape[0] for path in bits},
        "activations": {path: site.features for path, site in problem.anatomy.sites.items()},
    }
    ranges: dict[str, Ranges] = {
        folder: {
            path: _range(arrays, f"{folder}/{path}", like, features[folder][path], file)
            for path, like in of_folder.items()
        }
        for folder, of_folder in expected.items()
    }
    for folder, kind in FOLDERS.items():
        check_finite(ranges[folder], kind)
    rounded = dict(flatten(quantize_weights(weight_plan, params, ranges["weights"])))
    for planned in weight_plan:
        name = f"integers/{planned.path}"
        if name in arrays:
            q, r = _taken(arrays, name, flat[planned.path].shape, INTEGERS, file), ranges["weights"][planned.path]
            rounded[planned.path] = _on_grid(planned, q, r, flat[planned.path])
            if not np.array_equal(to_integers(planned, rounded[planned.path], r), q):
                raise QtxError(f"{file}: {name} leave the grid of their range: calibrate anew, without --ranges")
    if arrays:
        raise QtxError(f"{file} has {sorted(arrays)[0]}, which this model and recipe do not: they belong to another")
    nested = traverse_util.unflatten_dict(rounded, sep="/")
    return Quantized(module, nested, weight_plan, plan, ranges["weights"], ranges["activations"])


def _method(name: str) -> Method:
    return Static() if name == LEARNED else make_method(name)


def _integers(quantized: Quantized, params: Any) -> dict[str, np.ndarray]:
    """Returns, by path, the integers of each weight that is not simply rounded to nearest."""
    ranges, found = quantized.weight_ranges, {}
    nearest, rounded = (flatten(x) for x in (quantize_weights(quantized.weight_plan, params, ranges), quantized.params))
    for planned in quantized.weight_plan:
        path = planned.path
        if is_table(path) or np.array_equal(rounded[path], nearest[path]):
            continue
        q = to_integers(planned, rounded[path], ranges[path])
        if not np.array_equal(_on_grid(planned, q, ranges[path], rounded[path]), rounded[path]):
            raise QtxError(f"{path} is not on the grid of its range: a file of ranges cannot reproduce it")
        found[path] = np.asarray(q).astype(
            next(t for t in INTEGERS if np.iinfo(t).min <= q.min() and q.max() <= np.iinfo(t).max)
        )
    return found


def _on_grid(planned: Planned, integers: np.ndarray, r: Range, left: jax.Array) -> jax.Array:
    """Returns the weight of integers; of layers without a grid, what was `left`."""
    on = r["bits"].reshape(r["bits"].shape + (1,) * (left.ndim - r["bits"].ndim)) > 0
    return jnp.where(on, from_integers(planned, integers, r), left)


def _in_words(weight_plan: QuantizerPlan, activation_plan: QuantizerPlan) -> dict[str, dict[str, str]]:
    """Says how each tensor is quantized, in words, by kind and path."""
    plans = zip(FOLDERS, (weight_plan, activation_plan), strict=True)
    return {folder: {p.path: _words(p) for p in plan} for folder, plan in plans}


def _words(planned: Planned) -> str:
    static = {name: value for name, value in planned._asdict().items() if name != "path"}
    return ", ".join(f"{name}={value!r}" for name, value in static.items())


def _fingerprint(params: Any) -> str:
    return digest({path: np.asarray(x) for path, x in flatten(params).items()})


def _check_plan(saved: SavedRanges, expected: Mapping[str, Mapping[str, str]]) -> None:
    """Refuses a file whose tensors are quantized otherwise than expected, naming the first."""
    for folder, plan in expected.items():
        there = saved.plan[folder]
        for path, words in plan.items():
            if path not in there:
                raise QtxError(
                    f"{saved.file} has no {folder}/{path}: it holds the ranges of another model or recipe; calibrate "
                    "this one"
                )
            if words_of_this_version(str(there[path])) != words:
                raise QtxError(
                    f"{saved.file}: {folder}/{path} was quantized by {there[path]}, and the config says {words}: give "
                    "the --config.quantization options that it was made with, or calibrate anew"
                )


def _range(arrays: dict[str, np.ndarray], prefix: str, like: Mapping[str, Any], features: int, file: Path) -> Range:
    """Takes one range out of `arrays`: the ends and bits of `like`, and a basis if there is one."""
    floats = (np.float32,)
    r = {name: jnp.asarray(_taken(arrays, f"{prefix}/{name}", x.shape, floats, file)) for name, x in like.items()}
    if not np.array_equal(r["bits"], like["bits"]):
        raise QtxError(
            f"{file}: the bits of {prefix} are {_bits(r['bits'])}, expected {_bits(like['bits'])}: choose its "
            "--scheme, and the --config.quantization.exempt that it was made with, or calibrate anew"
        )
    for name, kind in BASES.items():
        if f"{prefix}/{name}" in arrays:
            shape = (*r["bits"].shape, *[features] * kind.rank)
            r[name] = jnp.asarray(_taken(arrays, f"{prefix}/{name}", shape, floats, file))
    return r


def _bits(bits: Any) -> str:
    return ", ".join(f"{x:g}" if x else FLOAT for x in np.ravel(bits))


def _taken(
    arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...], dtypes: tuple[Any, ...], file: Path
) -> np.ndarray:
    """Takes one array out of `arrays`; refuses another shape or dtype."""
    if name not in arrays:
        raise QtxError(f"{file} has no {name}: it holds the ranges of another model or recipe; calibrate this one")
    x = arrays.pop(name)
    if x.shape != shape or x.dtype not in dtypes:
        raise QtxError(
            f"{file}: {name} has shape {x.shape}, expected {shape}, of {np.dtype(dtypes[0])}: it holds the ranges of "
            "another model"
        )
    return x
