"""The nodes of JAX's own operations, by their names in a trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.lax import RoundingMethod
from onnx import helper

from qtx.foundation.errors import QtxError
from qtx.onnx.graph import Graph, Shape, Tensor

Operation = Callable[[Graph, Sequence[Tensor], Any], list[Tensor]]
"""A function (graph, inputs, equation of the trace) -> outputs."""

LAST, FIRST = np.iinfo(np.int64).max, np.iinfo(np.int64).min


def shape_of(equation: Any) -> Shape:
    """Returns the shape of an equation's first output."""
    return tuple(equation.outvars[0].aval.shape)


def dtype_of(equation: Any) -> np.dtype:
    """Returns the type of an equation's first output."""
    return np.dtype(equation.outvars[0].aval.dtype)


def elementwise(graph: Graph, op: str, inputs: Sequence[Tensor], dtype: Any, **attributes: Any) -> Tensor:
    """Returns what a node makes of tensors that it broadcasts."""
    rank = max(len(x.shape) for x in inputs)
    shapes = [(1,) * (rank - len(x.shape)) + x.shape for x in inputs]
    shape = tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*shapes, strict=True))
    return graph.made(op, [graph.use(x) for x in inputs], shape, dtype, **attributes)


def of(op: str) -> Operation:
    """Returns the operation of a node that works element by element."""
    return lambda graph, inputs, equation: [elementwise(graph, op, inputs, dtype_of(equation))]


def chain(*ops: str) -> Operation:
    """Returns the operation of nodes, each of which works on what the one before makes."""

    def operation(graph, inputs, equation):
        for op in ops:
            inputs = [elementwise(graph, op, inputs, dtype_of(equation))]
        return list(inputs)

    return operation


def unchanged(graph: Graph, inputs: Sequence[Tensor], equation: Any) -> list[Tensor]:
    """Returns the inputs: the operation is for the compiler, or for training."""
    return list(inputs)


def number(x: Any, like: Any) -> Tensor:
    """Returns a known scalar of a type."""
    return Tensor((), np.dtype(like), value=np.asarray(x, like))


def cast(graph: Graph, x: Tensor, dtype: Any) -> Tensor:
    """Returns a tensor in another type."""
    if x.dtype == dtype:
        return x
    return graph.made("Cast", [graph.use(x)], x.shape, dtype, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def converted(graph, inputs, equation):
    return [cast(graph, inputs[0], dtype_of(equation))]


def square(graph, inputs, equation):
    return [elementwise(graph, "Mul", [inputs[0], inputs[0]], dtype_of(equation))]


def integer_power(graph, inputs, equation):
    power = number(equation.params["y"], inputs[0].dtype)
    return [elementwise(graph, "Pow", [inputs[0], power], dtype_of(equation))]


def rounded(graph, inputs, equation):
    if equation.params["rounding_method"] != RoundingMethod.TO_NEAREST_EVEN:
        raise QtxError("rounding of ties away from zero has no form in ONNX: round them to even, as jnp.round does")
    return [elementwise(graph, "Round", inputs, dtype_of(equation))]


def erfc(graph, inputs, equation):
    found = elementwise(graph, "Erf", inputs, dtype_of(equation))
    return [elementwise(graph, "Sub", [number(1, found.dtype), found], found.dtype)]


def multiplied(graph, inputs, equation):
    dtype, x = dtype_of(equation), _read_by_gelu(graph, inputs)
    if x:
        return [graph.made("Gelu", [x], inputs[0].shape, dtype)]
    return [elementwise(graph, "Mul", inputs, dtype)]


def _read_by_gelu(graph: Graph, inputs: Sequence[Tensor]) -> str:
    """Returns the x of GELU, x / 2 erfc(-x / sqrt(2)), if its factors are the inputs; empty: they are not."""
    path, at = ("Sub", "Erf", "Mul", "Neg"), inputs[1].name
    for op in path:
        node = graph.makers.get(at)
        if node is None or node.op != op or (op == "Mul" and node.inputs[1] != graph.constant(0.5**0.5, np.float32)):
            return ""
        at = node.inputs[1 if op == "Sub" else 0]
    half = graph.makers.get(inputs[0].name)
    return at if half is not None and half.op == "Mul" and half.inputs == [graph.constant(0.5, np.float32), at] else ""


def select(graph, inputs, equation):
    which, if_false, *others = inputs
    if which.dtype != bool or len(others) != 1:
        raise QtxError("a choice among more than two has no form in ONNX yet")
    [if_true] = others
    if which.value is not None and which.value.size and (which.value == which.value.flat[0]).all():
        return [if_true if which.value.flat[0] else if_false]
    clip = _clip(graph, which, if_false, if_true)
    return [elementwise(graph, "Where", [which, if_true, if_false], dtype_of(equation)) if clip is None else clip]


def _clip(graph: Graph, which: Tensor, if_false: Tensor, if_true: Tensor) -> Tensor | None:
    """Returns the `Clip` that where(x < low, low, where(x > high, high, x)) is; None: it is none."""
    less, inner = graph.makers.get(which.name), graph.makers.get(if_false.name)
    if less is None or inner is None or (less.op, inner.op) != ("Less", "Where") or if_true.value is None:
        return None
    greater = graph.makers.get(inner.inputs[0])
    x = less.inputs[0]
    if greater is None or greater.op != "Greater" or greater.inputs[0] != x or inner.inputs[2] != x:
        return None
    found = [if_true.value, *(graph.value_of(name) for name in (less.inputs[1], inner.inputs[1], greater.inputs[1]))]
    ends = [float(end.item()) for end in found if end is not None and end.size == 1]
    if len(ends) < 4 or ends[0] != ends[1] or ends[2] != ends[3]:
        return None
    low, _, high, _ = ends
    return graph.made(
        "Clip", [x, *(graph.constant(end, if_false.dtype) for end in (low, high))], if_false.shape, if_false.dtype
    )


def clamp(graph, inputs, equation):
    low, x, high = inputs
    return [elementwise(graph, "Min", [elementwise(graph, "Max", [x, low], x.dtype), high], x.dtype)]


def broadcast(graph, inputs, equation):
    x, axes, rank = inputs[0], equation.params["broadcast_dimensions"], len(shape_of(equation))
    places = dict(zip(axes, x.shape, strict=True))
    shape = tuple(places.get(axis, 1) for axis in range(rank))
    if x.value is not None:
        return [Tensor(shape, x.dtype, value=x.value.reshape(shape))]
    new = [axis for axis in range(rank) if axis not in places]
    return [graph.moved(x, "Unsqueeze", [graph.constant(new, np.int64)], shape) if new else x]


def reshape(graph, inputs, equation):
    whole = graph.expanded(inputs[0], tuple(equation.invars[0].aval.shape))
    return [graph.reshaped(whole, shape_of(equation))]


def transpose(graph, inputs, equation):
    order = equation.params["permutation"]
    shape = tuple(inputs[0].shape[axis] for axis in order)
    return [graph.moved(inputs[0], "Transpose", [], shape, perm=list(order))]


def squeeze(graph, inputs, equation):
    x, axes = inputs[0], [axis % len(inputs[0].shape) for axis in equation.params["dimensions"]]
    shape = tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
    return [graph.moved(x, "Squeeze", [graph.constant(axes, np.int64)], shape)]


def concatenate(graph, inputs, equation):
    whole = [graph.expanded(x, tuple(v.aval.shape)) for x, v in zip(inputs, equation.invars, strict=True)]
    names = [graph.use(x) for x in whole]
    return [graph.made("Concat", names, shape_of(equation), dtype_of(equation), axis=equation.params["dimension"])]


def cut(graph, inputs, equation):
    shape, given = tuple(equation.invars[0].aval.shape), equation.params
    strides = given["strides"] or (1,) * len(shape)
    parts = zip(given["start_indices"], given["limit_indices"], strides, shape, strict=True)
    axes = [axis for axis, (start, limit, stride, size) in enumerate(parts) if (start, limit, stride) != (0, size, 1)]
    x = graph.expanded(inputs[0], shape)
    starts = [given["start_indices"][axis] for axis in axes]
    ends = [LAST if given["limit_indices"][axis] == shape[axis] else given["limit_indices"][axis] for axis in axes]
    steps = [strides[axis] for axis in axes]
    told = [graph.constant(values, np.int64) for values in (starts, ends, axes, steps)]
    return [graph.moved(x, "Slice", told, shape_of(equation))] if axes else [x]


def reverse(graph, inputs, equation):
    axes, x = list(equation.params["dimensions"]), graph.expanded(inputs[0], shape_of(equation))
    told = [[-1] * len(axes), [FIRST] * len(axes), axes, [-1] * len(axes)]
    return [graph.moved(x, "Slice", [graph.constant(values, np.int64) for values in told], shape_of(equation))]


def split(graph, inputs, equation):
    axis, sizes = equation.params["axis"], equation.params["sizes"]
    whole = graph.expanded(inputs[0], tuple(equation.invars[0].aval.shape))
    names = graph.node("Split", graph.use(whole), graph.constant(sizes, np.int64), outputs=len(sizes), axis=axis)
    return [Tensor(tuple(v.aval.shape), whole.dtype, x) for v, x in zip(equation.outvars, names, strict=True)]


def reduce(op: str) -> Operation:
    """Returns the operation of a node that reduces axes; of booleans, it reduces integers."""

    def operation(graph, inputs, equation):
        whole, axes = graph.expanded(inputs[0], tuple(equation.invars[0].aval.shape)), list(equation.params["axes"])
        x = cast(graph, whole, np.int32) if whole.dtype == bool else whole
        told = [graph.use(x), graph.constant(axes, np.int64)]
        return [cast(graph, graph.made(op, told, shape_of(equation), x.dtype, keepdims=0), whole.dtype)]

    return operation


def argmax(graph, inputs, equation):
    [axis] = equation.params["axes"]
    x = graph.expanded(inputs[0], tuple(equation.invars[0].aval.shape))
    x = cast(graph, x, np.int32) if x.dtype == bool else x
    found = graph.made("ArgMax", [graph.use(x)], shape_of(equation), np.int64, axis=axis, keepdims=0)
    return [cast(graph, found, dtype_of(equation))]


def cumulative_sum(graph, inputs, equation):
    x, given = graph.expanded(inputs[0], shape_of(equation)), equation.params
    axis = graph.constant(given["axis"], np.int64)
    return [graph.made("CumSum", [graph.use(x), axis], x.shape, x.dtype, reverse=int(given["reverse"]))]


def ordered(graph, inputs, equation):
    if len(inputs) > 1:
        raise QtxError("sorting of several tensors by one has no form in ONNX yet")
    shape, axis = shape_of(equation), equation.params["dimension"]
    x = graph.expanded(inputs[0], shape)
    least_first = {"axis": axis, "largest": 0, "sorted": 1}
    values, _ = graph.node("TopK", graph.use(x), graph.size(shape[axis]), outputs=2, **least_first)
    return [Tensor(shape, x.dtype, values)]


def counted(graph, inputs, equation):
    """Makes numbers along an axis, 0, 1, 2 ..., as `iota` does; the other axes are left at 1."""
    shape, axis = shape_of(equation), equation.params["dimension"]
    size = graph.node("Squeeze", graph.size(shape[axis]))[0]
    ends = [graph.constant(0, np.int64), size, graph.constant(1, np.int64)]
    line = cast(graph, graph.made("Range", ends, (shape[axis],), np.int64), dtype_of(equation))
    held = tuple(size if i == axis else 1 for i, size in enumerate(shape))
    new = [i for i in range(len(shape)) if i != axis]
    return [graph.moved(line, "Unsqueeze", [graph.constant(new, np.int64)], held) if new else line]


def size_as_value(graph, inputs, equation):
    size = graph.made("Squeeze", [graph.size(equation.params["dim"])], (), np.int64)
    return [cast(graph, size, dtype_of(equation))]


def matrix_product(
    graph: Graph, x: Tensor, y: Tensor, batch: tuple[Sequence[int], Sequence[int]], summed: tuple[int, int]
) -> Tensor:
    """Returns the product of tensors, one of whose axes is summed, by batches: `[*batch, *left of x, *left of y]`.

    Args:
      graph: the graph.
      x, y: the tensors, with all their values.
      batch: the axes of the batches, of x and of y; where there are some, one axis of each is left.
      summed: the axis of x and of y that is summed.
    """
    free = [
        [axis for axis in range(len(z.shape)) if axis not in (*of_batch, of_sum)]
        for z, of_batch, of_sum in zip((x, y), batch, summed, strict=True)
    ]
    shape = (*_at(x, batch[0]), *_at(x, free[0]), *_at(y, free[1]))
    if (batch[0] and len(free[0]) != 1) or len(free[1]) != 1:
        return _einsum(graph, x, y, batch, summed, free, shape)
    orders = (*batch[0], *free[0], summed[0]), (*batch[1], summed[1], *free[1])
    turned = [
        z if list(order) == sorted(order) else graph.moved(z, "Transpose", [], _at(z, order), perm=list(order))
        for z, order in zip((x, y), orders, strict=True)
    ]
    return graph.made("MatMul", [graph.use(z) for z in turned], shape, x.dtype)


def _einsum(graph: Graph, x: Tensor, y: Tensor, batch: Any, summed: Any, free: Any, shape: Shape) -> Tensor:
    """Returns a product of which several axes are left, or none."""
    of_x = {axis: chr(97 + axis) for axis in range(len(x.shape))}
    of_y = {axis: chr(110 + axis) for axis in range(len(y.shape))}
    of_y |= {axis: of_x[other] for other, axis in zip((*batch[0], summed[0]), (*batch[1], summed[1]), strict=True)}
    result = [*(of_x[axis] for axis in (*batch[0], *free[0])), *(of_y[axis] for axis in free[1])]
    equation = f"{''.join(of_x.values())},{''.join(of_y[axis] for axis in range(len(y.shape)))}->{''.join(result)}"
    return graph.made("Einsum", [graph.use(x), graph.use(y)], shape, x.dtype, equation=equation)


def _at(x: Tensor, axes: Sequence[int]) -> Shape:
    return tuple(x.shape[axis] for axis in axes)


def product(graph, inputs, equation):
    (of_x, of_y), batch = equation.params["dimension_numbers"]
    x, y = (graph.expanded(z, tuple(v.aval.shape)) for z, v in zip(inputs, equation.invars, strict=True))
    if len(of_x) != 1:
        raise QtxError("a product that sums several axes has no node in ONNX")
    return [matrix_product(graph, x, y, batch, (of_x[0], of_y[0]))]


def gather(graph, inputs, equation):
    """Looks up rows: along one axis of a tensor, or along one axis for each place on others (`take_along_axis`)."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    x, rows = (graph.expanded(z, tuple(v.aval.shape)) for z, v in zip(inputs, equation.invars, strict=True))
    [axis] = numbers.start_index_map if len(numbers.start_index_map) == 1 else [None]
    batched = numbers.operand_batching_dims
    whole = all(sizes[i] == 1 if i == axis or i in batched else sizes[i] == x.shape[i] for i in range(len(sizes)))
    index = graph.reshaped(rows, rows.shape[:-1])
    if axis is None or not whole or axis not in numbers.collapsed_slice_dims:
        raise QtxError(f"a look-up by {numbers} has no node in ONNX")
    leading = len(index.shape)
    if not batched and numbers.offset_dims == (
        *range(axis),
        *range(axis + leading, axis + leading + len(sizes) - 1 - axis),
    ):
        shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
        return [graph.made("Gather", [graph.use(x), graph.use(index)], shape, x.dtype, axis=axis)]
    # GatherND takes batches that lead, and then an index each.
    if batched == tuple(range(len(batched))) == numbers.start_indices_batching_dims and axis == len(batched):
        last = graph.moved(index, "Unsqueeze", [graph.constant([leading], np.int64)], (*index.shape, 1))
        shape, names = (*index.shape, *x.shape[axis + 1 :]), [graph.use(x), graph.use(cast(graph, last, np.int64))]
        return [graph.made("GatherND", names, shape, x.dtype, batch_dims=len(batched))]
    raise QtxError(f"a look-up by {numbers} has no node in ONNX")


OPERATIONS: dict[str, Operation] = {
    **{
        name: of(op)
        for name, op in {
            "add": "Add",
            "add_any": "Add",
            "sub": "Sub",
            "div": "Div",
            "max": "Max",
            "min": "Min",
            "pow": "Pow",
            "neg": "Neg",
            "exp": "Exp",
            "log": "Log",
            "tanh": "Tanh",
            "logistic": "Sigmoid",
            "sqrt": "Sqrt",
            "abs": "Abs",
            "sign": "Sign",
            "floor": "Floor",
            "sin": "Sin",
            "cos": "Cos",
            "erf": "Erf",
            "and": "And",
            "or": "Or",
            "not": "Not",
            "lt": "Less",
            "le": "LessOrEqual",
            "gt": "Greater",
            "ge": "GreaterOrEqual",
            "eq": "Equal",
        }.items()
    },
    **dict.fromkeys(
        ("stop_gradient", "copy", "copy_p", "name", "optimization_barrier", "sharding_constraint", "reduce_precision"),
        unchanged,
    ),
    "ne": lambda graph, inputs, equation: [
        elementwise(graph, "Not", [elementwise(graph, "Equal", inputs, bool)], bool)
    ],
    "round": rounded,
    "rsqrt": chain("Sqrt", "Reciprocal"),
    "mul": multiplied,
    "square": square,
    "integer_pow": integer_power,
    "erfc": erfc,
    "select_n": select,
    "clamp": clamp,
    "convert_element_type": converted,
    "broadcast_in_dim": broadcast,
    "reshape": reshape,
    "transpose": transpose,
    "squeeze": squeeze,
    "concatenate": concatenate,
    "slice": cut,
    "rev": reverse,
    "split": split,
    "reduce_sum": reduce("ReduceSum"),
    "reduce_max": reduce("ReduceMax"),
    "reduce_min": reduce("ReduceMin"),
    "reduce_and": reduce("ReduceMin"),
    "reduce_or": reduce("ReduceMax"),
    "argmax": argmax,
    "cumsum": cumulative_sum,
    "sort": ordered,
    "iota": counted,
    "dim_as_value": size_as_value,
    "dot_general": product,
    "gather": gather,
}
