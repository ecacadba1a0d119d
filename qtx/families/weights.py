"""One table says which weight of a checkpoint is which qtx parameter; importing and exporting both read it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from qtx.foundation.errors import QtxError
from qtx.foundation.storage import StoredTensor

# Names that a message lists before it only counts the rest.
LISTED = 4
# Types that float32 holds without loss.
FLOATS = ("float32", "float16", "bfloat16")
# The most names that are made before it is clear that a checkpoint has them.
MOST_NAMES = 10_000


@dataclasses.dataclass(frozen=True)
class Layout:
    """A `Layout` says how one tensor changes between a checkpoint and qtx; `exported(imported(x))` is `x`."""

    imported: Callable[[np.ndarray], np.ndarray]
    exported: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda x: x, lambda x: x)
# [out, in] <-> [in, out]
DENSE_LAYOUT = Layout(np.transpose, np.transpose)
# [1, ...] <-> [...]
FIRST = Layout(lambda x: x[0], lambda x: x[None])
# [1, 1, n] <-> [n]
VECTOR = Layout(lambda x: x[0, 0], lambda x: x[None, None])


def convolution(size: int) -> Layout:
    """Returns the layout convolution `[width, C, P, P]` <-> matrix `[P * P * C, width]` on flat patches of side P."""
    return Layout(
        lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
        lambda x: x.reshape(size, size, -1, x.shape[1]).transpose(3, 2, 0, 1),
    )


@dataclasses.dataclass(frozen=True)
class Weight:
    """One row of the table that says which weight of a checkpoint is which parameter.

    Attributes:
      name: the checkpoint's name; `{layer}` and `{head}` stand for an index, and the tensors of all indices are stacked
        on leading axes in that order.
      path: the path of the stacked parameter in qtx's tree, e.g. `"layers/attention/query/kernel"`.
      layout: the layout of the single tensor.
      begin, axis: where the parameter begins in the tensor, and along which axis, both in qtx's layout. Rows with the
        same name, and the same layout, are parts of one tensor, and the last of them is its end. What is in none of
        them is kept as it is in the original; without one it is 0.
      first: the first layer that has the tensor; the parameter of those before it is not used, and 1.
    """

    name: str
    path: str
    layout: Layout = SAME
    begin: int = 0
    axis: int = -1
    first: int = 0

    @property
    def indices(self) -> list[str]:
        """Returns the names of the stacked axes."""
        return [field for _, field, _, _ in string.Formatter().parse(self.name) if field]

    def whole(self, stored: StoredTensor) -> np.ndarray:
        """Returns a single tensor of the checkpoint, of the same type, in qtx's layout."""
        return np.asarray(self.layout.imported(np.asarray(stored)))

    def place(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        """Returns where in the single tensor, in qtx's layout, a parameter of a shape is."""
        place = [slice(size) for size in shape]
        if place:
            place[self.axis] = slice(self.begin, self.begin + shape[self.axis])
        return tuple(place)

    def names(self, sizes: Mapping[str, int]) -> Iterator[tuple[tuple[int, ...], str]]:
        """Yields every index of the stacked axes with the checkpoint's name there."""
        for index in itertools.product(*(range(self.first, sizes[axis]) for axis in self.indices)):
            yield index, self.name.format(**dict(zip(self.indices, index, strict=True)))


def dense_weights(name: str, path: str, begin: int = 0, bias: bool = True) -> list[Weight]:
    """Returns the rows of a linear layer, weight `[out, in]` and perhaps bias, or of its outputs from `begin` on."""
    weight = Weight(f"{name}.weight", f"{path}/kernel", DENSE_LAYOUT, begin)
    return [weight, Weight(f"{name}.bias", f"{path}/bias", begin=begin)] if bias else [weight]


def packed_weights(name: str, outputs: Mapping[str, int], bias: bool = True) -> list[Weight]:
    """Returns the rows of one linear layer that is several of ours; `outputs` has their paths, in the order in which
    their outputs follow each other, and the number of these."""
    begins = itertools.accumulate(outputs.values(), initial=0)
    return [row for path, begin in zip(outputs, begins, strict=False) for row in dense_weights(name, path, begin, bias)]


def layer_norm_weights(name: str, path: str, bias: bool = True, first: int = 0) -> list[Weight]:
    """Returns the rows of a LayerNorm, weight and perhaps bias, which layers have from the layer `first` on."""
    weight = Weight(f"{name}.weight", f"{path}/scale", first=first)
    return [weight, Weight(f"{name}.bias", f"{path}/bias", first=first)] if bias else [weight]


def import_weights(
    table: Sequence[Weight],
    tensors: Mapping[str, StoredTensor],
    shapes: Any,
    sizes: Mapping[str, int],
    source: str,
) -> dict[str, Any]:
    """Makes the float32 parameter tree from a checkpoint's tensors, of which one at a time is read.

    Args:
      table: the correspondence; its paths are those of `shapes`.
      tensors: the checkpoint's tensors by name; each must be in the table.
      shapes: the tree of parameter shapes (leaves with a `shape`) that the model has.
      sizes: the lengths of the stacked axes, `{"layer": L, "head": H}`.
      source: what to call the checkpoint in messages.

    Raises:
      QtxError: naming weights that are missing, unexpected, of another shape or type, or not finite.
    """
    expected = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items()}
    _refuse_unnamed(table, expected)
    total = sum(math.prod(sizes[axis] for axis in weight.indices) for weight in table)
    if total > MOST_NAMES + 10 * len(tensors):  # a config may say any number of layers
        raise QtxError(f"{source} has {len(tensors)} weights, but its config.json means {total:,}")
    wanted = dict.fromkeys(name for weight in table for _, name in weight.names(sizes))
    _refuse(source, "lacks", [name for name in wanted if name not in tensors])
    _refuse(source, "has unexpected", sorted(set(tensors).difference(wanted)))
    wholes = _whole_shapes(table, expected)
    for weight in table:
        stored = weight.layout.exported(np.broadcast_to(np.float32(0), wholes[weight.name])).shape
        for _, name in weight.names(sizes):
            if tensors[name].shape != stored:
                raise QtxError(f"{source}: {name} has shape {tensors[name].shape}, but its config.json means {stored}")
            if tensors[name].dtype.name not in FLOATS:
                raise QtxError(f"{source}: {name} is of {tensors[name].dtype.name}, expected {', '.join(FLOATS)}")
    return traverse_util.unflatten_dict(
        {weight.path: _imported(weight, tensors, expected[weight.path], sizes, source) for weight in table}, sep="/"
    )


def _imported(
    weight: Weight, tensors: Mapping[str, StoredTensor], shape: tuple[int, ...], sizes: Mapping[str, int], source: str
) -> np.ndarray:
    """Returns a row's stacked parameter: a single tensor as it was read, if possible, or several copied one by one."""
    place = weight.place(shape[len(weight.indices) :])
    if not weight.indices:
        parameter = np.ascontiguousarray(weight.whole(tensors[weight.name])[place], np.float32).reshape(shape)
        return _finite(parameter, weight.name, source)
    parameter = np.ones(shape, np.float32)
    for index, name in weight.names(sizes):
        parameter[index] = weight.whole(tensors[name])[place]
        _finite(parameter[index], name, source)
    return parameter


def _whole_shapes(table: Sequence[Weight], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the table's single tensors, by name and in qtx's layout, given those of the parameters."""
    wholes: dict[str, tuple[int, ...]] = {}
    for weight in table:
        shape = shapes[weight.path][len(weight.indices) :]
        ends = tuple(part.stop for part in weight.place(shape))
        wholes[weight.name] = tuple(map(max, wholes.get(weight.name, ends), ends))
    return wholes


def _finite(x: np.ndarray, name: str, source: str) -> np.ndarray:
    if not np.isfinite(x).all():
        raise QtxError(f"{source}: {name} has values that are NaN or infinite: take an earlier checkpoint of the model")
    return x


def _refuse(source: str, problem: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        raise QtxError(f"{source} {problem} {', '.join(names[:LISTED])}{more}: check it against its config.json")


def _refuse_unnamed(table: Sequence[Weight], paths: Iterable[str]) -> None:
    """Raises QtxError if a parameter is in no row of the table: it would be lost silently."""
    unnamed = sorted(set(paths) - {weight.path for weight in table})
    if unnamed:
        raise QtxError(f"{', '.join(unnamed)}: no name in a checkpoint is known for this, so that it would be lost")


def export_weights(
    table: Sequence[Weight],
    parameters: Any,
    sizes: Mapping[str, int],
    original: Mapping[str, StoredTensor] | None = None,
) -> dict[str, np.ndarray]:
    """Returns the checkpoint's tensors by name: the inverse of `import_weights`. The `original` has what a tensor holds
    beside parameters."""
    flat = {path: np.asarray(x, np.float32) for path, x in traverse_util.flatten_dict(parameters, sep="/").items()}
    _refuse_unnamed(table, flat)
    wholes = _whole_shapes(table, {path: x.shape for path, x in flat.items()})
    tensors: dict[str, np.ndarray] = {}
    layouts: dict[str, Layout] = {}
    for weight in table:
        for index, name in weight.names(sizes):
            part, layouts[name] = flat[weight.path][index], weight.layout
            if part.shape == wholes[weight.name]:
                tensors[name] = part
                continue
            if name not in tensors:
                there = None if original is None else original.get(name)
                whole = np.zeros(wholes[weight.name], np.float32) if there is None else weight.whole(there)
                if whole.shape != wholes[weight.name]:
                    raise QtxError(f"{name} has another shape in the original: give the one that the model was made of")
                tensors[name] = np.array(whole, np.float32)
            tensors[name][weight.place(part.shape)] = part
    return {name: np.ascontiguousarray(layouts[name].exported(x)) for name, x in tensors.items()}
