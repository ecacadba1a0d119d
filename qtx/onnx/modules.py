"""The nodes of marks (`qtx.onnx.marks`): what a runtime has one node for, on integers where a model is quantized."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from qtx.onnx import attention, marks
from qtx.onnx.graph import Graph, Quantized, Tensor
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
      fused: whether an attention of which no tensor within is rounded is one node, in which these have no name.
      layer: the number of the layer; None: in none.
    """

    weights: Grids
    sites: Grids
    dynamic: frozenset[tuple[str, int | None]] = frozenset()
    fused: bool = False
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


def dense(graph, place, inputs, equation):
    x, kernel, *biases = inputs
    x, path = graph.expanded(x, tuple(equation.invars[0].aval.shape)), equation.params["path"]
    width, leading, name = kernel.shape[1], x.shape[:-1], place.label(path)
    bias = np.asarray(biases[0].known, np.float32) if biases else np.zeros(width, np.float32)
    grid = place.grid(place.weights, f"{path}/kernel")
    if grid is None or not (x.dynamic or (x.quantized and _of_8_bits(x.quantized, grid))):
        graph.in_floating_point.append(name)
    if grid is None:
        rows, offset = _rows(graph, x), graph.constant(bias)
        weights = graph.label(graph.constant(np.asarray(kernel.known, np.float32)), f"{name}.kernel")
    else:
        told, axis = _integers(graph, place.owner(path), grid, kernel.known)
        graph.label(told[0], f"{name}.kernel")
        graph.rounded.append(Rounded(f"{name}.kernel", f"{path}/kernel", grid, weight=True))
        if x.dynamic:
            return [_multiplied_at_call(graph, x, told, grid.scale, bias)]
        rows, weights = _rows(graph, x), graph.node("DequantizeLinear", *told, **axis)[0]
        offset = _bias(graph, bias, grid.scale, rows.quantized, grid.whole)
    shape = (*rows.shape[:-1], width)
    y = graph.made("Gemm", [graph.use(rows), weights, *([offset] if offset else [])], shape, np.float32)
    y = y if offset or not bias.any() else graph.made("Add", [y.name, graph.constant(bias)], shape, np.float32)
    if len(leading) != 1:
        graph.label(y.name, f"{name}/rows")
    return [graph.reshaped(y, (*leading, width))]


def _of_8_bits(x: Quantized, kernel: Grid) -> bool:
    """Says whether a runtime multiplies x and a kernel as integers: it has no product of more bits."""
    return x.zero_point.itemsize == kernel.zero_point.itemsize == 1


def _rows(graph: Graph, x: Tensor) -> Tensor:
    """Returns x `[..., D]` as rows `[N, D]`, which a runtime multiplies in one node."""
    leading = x.shape[:-1]
    return graph.reshaped(x, (_all(leading), x.shape[-1])) if len(leading) != 1 else x


def _integers(graph: Graph, owner: str, grid: Grid, kernel: np.ndarray) -> tuple[list[str], dict[str, int]]:
    """Returns the integers of a kernel, with scale and zero-point, as constants, and the axis that these have, if
    any."""
    # ONNX Runtime cannot convert a kernel that several layers share (session.x64quantprecision), and need not if it has
    # no signs.
    grid = grid if owner else grid.unsigned
    told = [graph.constant(x, owner=owner) for x in (grid.integers(kernel), grid.scale, grid.zero_point)]
    return told, {"axis": 1} if grid.scale.ndim else {}


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
    if place.fused and text == attention.CONTEXT and (found := attention.fused(graph, *inputs)) is not None:
        return [found]
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
    marks.DENSE.name: dense,
    marks.NORM.name: norm,
    marks.LOOK_UP.name: look_up,
    marks.SOFTMAX.name: softmax,
    marks.PRODUCT.name: product,
    marks.SITE.name: site,
}
"""By the name of the mark."""
