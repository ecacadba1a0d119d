"""The nodes of marks (`qtx.onnx.marks`): what a runtime has one node for, on integers where a model is quantized."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from qtx.onnx import marks
from qtx.onnx.graph import Graph, Quantized, Shape, Tensor
from qtx.onnx.grids import Grid, Grids, Rounded
from qtx.onnx.operations import cast, elementwise, matrix_product, number, shape_of

FLOAT = TensorProto.FLOAT
LOWEST = np.finfo(np.float32).min


@dataclasses.dataclass(frozen=True)
class Place:
    """A `Place` says where in a model an equation is.

    Attributes:
      weights, sites: the grids of a quantized model.
      dynamic: sites, path and layer, with the grid of their values at a call.
      apart: whether dense layers that read the same tensor are a product each, and not one together.
      layer: the number of the layer; None: in none.
    """

    weights: Grids
    sites: Grids
    dynamic: frozenset[tuple[str, int | None]] = frozenset()
    apart: bool = False
    layer: int | None = None

    def grid(self, grids: Grids, path: str) -> Grid | None:
        """Returns a grid of this layer's, or one that all layers share."""
        return grids.get((path, self.layer), grids.get((path, None)))

    def owner(self, path: str) -> str:
        """Names the layer that alone has the kernel of a dense layer; empty: several layers share the kernel."""
        return self.label(path) if (f"{path}/kernel", self.layer) in self.weights else ""

    def label(self, path: str) -> str:
        """Returns the name of a tensor: `layers/mlp/out` in layer 3 is `layers.3.mlp.out`."""
        stack, _, rest = path.partition("/")
        return path.replace("/", ".") if self.layer is None else f"{stack}.{self.layer}.{rest.replace('/', '.')}"


Module = Callable[[Graph, Place, Sequence[Tensor], Any], list[Tensor]]


def dense(graph: Graph, place: Place, x: Tensor, layers: Sequence[Any]) -> list[Tensor]:
    """Returns the outputs of dense layers that read the same x, by one product.

    Args:
      graph: the graph.
      place: where the layers are.
      x: `[..., D]`.
      layers: kernel, bias (or None) and path of each.
    """
    kernels, biases, paths = zip(*layers, strict=True)
    widths = [kernel.known.shape[1] for kernel in kernels]
    kernel = np.concatenate([np.asarray(kernel.known, np.float32) for kernel in kernels], axis=1)
    added = [None if b is None else np.asarray(b.known, np.float32) for b in biases]
    bias = np.concatenate([np.zeros(n, np.float32) if b is None else b for b, n in zip(added, widths, strict=True)])
    grids = [place.grid(place.weights, f"{path}/kernel") for path in paths]
    leading, name = x.shape[:-1], "+".join([place.label(paths[0]), *(path.rpartition("/")[2] for path in paths[1:])])
    known = [grid for grid in grids if grid is not None]
    if len(known) < len(grids) or (x.quantized is None and not x.dynamic):
        graph.in_floating_point.append(name)
    if len(known) < len(grids):
        rows, offset = _rows(graph, x), graph.constant(bias)
        weights = graph.label(graph.constant(kernel), f"{name}.kernel")
    else:
        told, axis, scale = _integers(graph, place.owner(paths[0]), known, [k.known for k in kernels])
        graph.label(told[0], f"{name}.kernel")
        for path, grid in zip(paths, known, strict=True):
            label = f"{place.label(path)}.kernel"
            graph.label(told[0], label)
            graph.rounded.append(Rounded(label, f"{path}/kernel", grid, weight=True))
        if x.dynamic:
            y = _multiplied_at_call(graph, x, told, scale, bias)
            return _parted(graph, y, leading, widths)
        rows, weights = _rows(graph, x), graph.node("DequantizeLinear", *told, **axis)[0]
        offset = _bias(graph, bias, scale, rows.quantized, all(grid.whole for grid in known))
    shape = (*rows.shape[:-1], sum(widths))
    y = graph.made("Gemm", [graph.use(rows), weights, *([offset] if offset else [])], shape, np.float32)
    y = y if offset or not bias.any() else graph.made("Add", [y.name, graph.constant(bias)], shape, np.float32)
    if len(leading) != 1:
        graph.label(y.name, f"{name}/rows")
    return _parted(graph, graph.reshaped(y, (*leading, sum(widths))), leading, widths)


def _rows(graph: Graph, x: Tensor) -> Tensor:
    """Returns x `[..., D]` as rows `[N, D]`, which a runtime multiplies in one node."""
    leading = x.shape[:-1]
    return graph.reshaped(x, (_all(leading), x.shape[-1])) if len(leading) != 1 else x


def _integers(
    graph: Graph, owner: str, grids: Sequence[Grid], kernels: Sequence[np.ndarray]
) -> tuple[list[str], dict[str, int], np.ndarray]:
    """Returns the integers of kernels side by side, with scale and zero-point, as constants; the axis that these have,
    if they are not the same for all; and the scale."""
    widths = [kernel.shape[1] for kernel in kernels]
    # ONNX Runtime cannot convert a kernel that several layers share (session.x64quantprecision), and need not if it has
    # no signs.
    signed = owner and all(grid.zero_point.dtype.kind == "i" for grid in grids)
    grids = grids if signed else [grid.unsigned for grid in grids]
    integers = np.concatenate([g.integers(k) for g, k in zip(grids, kernels, strict=True)], axis=1)
    scale, zero = (
        np.concatenate([np.broadcast_to(getattr(g, name), n) for g, n in zip(grids, widths, strict=True)])
        for name in ("scale", "zero_point")
    )
    if (scale == scale[0]).all() and (zero == zero[0]).all():
        scale, zero = scale[0], zero[0]
    told = [graph.constant(x, owner=owner) for x in (integers, scale, zero)]
    return told, {"axis": 1} if scale.ndim else {}, scale


def _multiplied_at_call(graph: Graph, x: Tensor, told: Sequence[str], scale: np.ndarray, bias: np.ndarray) -> Tensor:
    """Returns the product of x, rounded to the grid of its values at a call, and integers: the nodes that runtimes have
    one for."""
    integers, _, zero_point = told
    entering, step, zero = graph.node("DynamicQuantizeLinear", graph.use(x), outputs=3)
    sums = graph.node("MatMulInteger", entering, integers, zero, zero_point)[0]
    steps = graph.node("Mul", step, graph.constant(scale))[0]
    shape = (*x.shape[:-1], len(bias))
    y = Tensor(shape, np.dtype(np.float32), graph.node("Cast", sums, to=FLOAT)[0])
    y = graph.made("Mul", [y.name, steps], shape, np.float32)
    return graph.made("Add", [y.name, graph.constant(bias)], shape, np.float32) if bias.any() else y


def _parted(graph: Graph, y: Tensor, leading: Shape, widths: Sequence[int]) -> list[Tensor]:
    """Returns the outputs of dense layers, which are side by side."""
    if len(widths) == 1:
        return [y]
    names = graph.node("Split", y.name, graph.constant(widths, np.int64), outputs=len(widths), axis=-1)
    return [Tensor((*leading, n), np.dtype(np.float32), name) for name, n in zip(names, widths, strict=True)]


def _all(leading: tuple[Any, ...]) -> Any:
    total: Any = 1
    for size in leading:
        total = total * size
    return total


def _bias(graph: Graph, bias: np.ndarray, scale: np.ndarray, x: Quantized | None, whole: bool) -> str:
    """Returns the bias as it is, if x is in floating point, or as integers that are added to sums of integers; nothing,
    where these are too coarse, as with fewer bits than 8, or do not hold it: it is added to what the sums mean."""
    if x is None:
        return graph.constant(bias)
    if not (whole and x.whole):
        return ""
    steps = np.asarray(x.scale * scale, np.float32)
    integers = np.rint(bias.astype(np.float64) / steps)
    if np.abs(integers).max(initial=0) > np.iinfo(np.int32).max:
        return ""
    axis = {} if steps.ndim == 0 else {"axis": 0}
    told = [integers.astype(np.int32), steps, np.zeros(steps.shape, np.int32)]
    return graph.node("DequantizeLinear", *(graph.constant(value) for value in told), **axis)[0]


def norm(graph, place, inputs, equation):
    x, scale, *bias = inputs
    held = _constant(graph, place, scale.known, f"{equation.params['path']}/scale")
    names = [graph.use(x), held, *map(graph.use, bias)]
    options = {"axis": -1, "epsilon": float(equation.params["epsilon"])}
    return [graph.made("LayerNormalization", names, x.shape, np.float32, **options)]


def _constant(graph: Graph, place: Place, value: np.ndarray, path: str) -> str:
    """Returns the name of the constant of the parameter at a path, which it shares with no other parameter."""
    label, grid = place.label(path), place.grid(place.weights, path)
    if grid is not None:
        graph.rounded.append(Rounded(label, path, grid, weight=True))
    return graph.label(graph.constant(value, owner=label), label)


def look_up(graph, place, inputs, equation):
    (table, rows), path = inputs, f"{equation.params['path']}/embedding"
    grid = place.grid(place.weights, path)
    shape = (*rows.shape, table.shape[-1])
    if grid is None:
        names = [_constant(graph, place, np.asarray(table.known, np.float32), path), graph.use(rows)]
        return [graph.made("Gather", names, shape, np.float32, axis=0)]
    names = [_constant(graph, place, grid.integers(table.known), path), graph.use(rows)]
    integers = graph.node("Gather", *names, axis=0)[0]
    if grid.scale.ndim:  # a grid for each column, of which no site has one
        told = [graph.constant(grid.scale), graph.constant(grid.zero_point)]
        return [graph.made("DequantizeLinear", [integers, *told], shape, np.float32, axis=-1)]
    return [Tensor(shape, np.dtype(np.float32), quantized=Quantized(integers, grid.scale, grid.zero_point, grid.whole))]


def softmax(graph, place, inputs, equation):
    scores, *others = inputs
    if equation.params["masked"]:
        # A sum, since a runtime's softmax on integers, which it makes of one that reads a grid, is slow.
        hidden = [others[0], number(0, np.float32), number(LOWEST, np.float32)]
        scores = elementwise(graph, "Add", [scores, elementwise(graph, "Where", hidden, np.float32)], np.float32)
    elif scores.quantized is not None:
        # The same for a model that masks nothing: a sum with a 0 that a runtime does not know before it runs.
        size = graph.size(scores.shape[0])
        zero = graph.made("Sub", [size, size], (1,), np.int64)
        scores = elementwise(graph, "Add", [scores, cast(graph, zero, np.float32)], np.float32)
    if not equation.params["emptied"]:
        return [graph.made("Softmax", [graph.use(scores)], scores.shape, np.float32, axis=-1)]
    whole = (*scores.shape[:-1], 1)
    names = [graph.use(scores), graph.use(graph.expanded(others[-1], whole))]
    longer = graph.node("Softmax", graph.node("Concat", *names, axis=-1)[0], axis=-1)[0]
    told = [graph.constant([value], np.int64) for value in (0, -1, -1)]
    return [graph.made("Slice", [longer, *told], scores.shape, np.float32)]


def product(graph, place, inputs, equation):
    text, scale = equation.params["equation"], equation.params["scale"]
    operands, _, result = text.partition("->")
    left, _, right = operands.partition(",")
    x, y = (graph.expanded(z, tuple(v.aval.shape)) for z, v in zip(inputs, equation.invars, strict=True))
    if scale != 1 and x.quantized is not None:
        x = dataclasses.replace(
            x, quantized=dataclasses.replace(x.quantized, scale=np.float32(x.quantized.scale * scale))
        )
    elif scale != 1:
        x = elementwise(graph, "Mul", [x, number(scale, np.float32)], np.float32)
    batch = [letter for letter in left if letter in right and letter in result]
    [summed] = [letter for letter in left if letter in right and letter not in result]
    axes = [left.index(letter) for letter in batch], [right.index(letter) for letter in batch]
    made = matrix_product(graph, x, y, axes, (left.index(summed), right.index(summed)))
    order = "".join([*batch, *(z for z in left + right if z not in batch and z != summed)])
    turned = [order.index(letter) for letter in result]
    shape = shape_of(equation)
    return [made if turned == sorted(turned) else graph.moved(made, "Transpose", [], shape, perm=turned)]


def site(graph, place, inputs, equation):
    [x], path = inputs, equation.params["path"]
    x = graph.at_site(x, place.label(path))
    if not place.dynamic.isdisjoint({(path, place.layer), (path, None)}):
        return [dataclasses.replace(x, dynamic=True)]
    grid = place.grid(place.sites, path)
    if grid is None:
        return [x]
    graph.rounded.append(Rounded(place.label(path), path, grid, weight=False))
    name = graph.use(x)
    if not grid.whole:
        ends = [np.float32(grid.scale * (end - grid.zero_point.astype(np.int64))) for end in (grid.low, grid.high)]
        name = graph.node("Clip", name, *map(graph.constant, ends))[0]
    told = [graph.constant(grid.scale), graph.constant(grid.zero_point)]
    if grid.scale.ndim:  # no product of integers sums over such an axis
        integers = graph.node("QuantizeLinear", name, *told, axis=-1)[0]
        return [graph.made("DequantizeLinear", [integers, *told], x.shape, x.dtype, axis=-1)]
    integers = graph.node("QuantizeLinear", name, *told)[0]
    return [Tensor(x.shape, x.dtype, quantized=Quantized(integers, grid.scale, grid.zero_point, grid.whole))]


MODULES: dict[str, Module] = {
    marks.NORM.name: norm,
    marks.LOOK_UP.name: look_up,
    marks.SOFTMAX.name: softmax,
    marks.PRODUCT.name: product,
    marks.SITE.name: site,
}
"""By the name of the mark; `dense` is of several."""
