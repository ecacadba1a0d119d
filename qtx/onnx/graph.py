"""The graph that is built: tensors, known or computed by nodes, each node once.

A tensor of the trace may be held with an axis of 1 where its values are the same along the axis: the nodes of
elementwise operations broadcast it, and only what needs all values expands it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qtx.onnx.grids import Rounded

Shape = tuple[Any, ...]
"""Sizes of axes: integers, or sizes that only the inputs tell, as `jax.export.symbolic_shape` has them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Quantized:
    """The integers of a tensor: value = scale * (integer - zero_point).

    Attributes:
      name: of the tensor of integers.
      scale: float32, `()`.
      zero_point: of the integers' type, `()`.
      whole: whether the grid has all integers of this type.
    """

    name: str
    scale: np.ndarray
    zero_point: np.ndarray
    whole: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the graph.

    Attributes:
      shape: as it is held.
      dtype: its values' type.
      name: in the graph; empty: it is known, or has integers alone.
      value: its values, if they are known (see `known`).
      quantized: its integers, if it is on a grid.
      dynamic: whether dense layers round it, to the grid of all its values at a call.
      parameter: the path of the parameter that it is, of all layers; empty: it is none.
    """

    shape: Shape
    dtype: np.dtype
    name: str = ""
    value: np.ndarray | None = None
    quantized: Quantized | None = None
    dynamic: bool = False
    parameter: str = ""

    @property
    def known(self) -> np.ndarray:
        """Returns the values of a tensor that is known."""
        assert self.value is not None, "the tensor is computed by a node"
        return self.value


@dataclasses.dataclass
class _Node:
    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


class Graph:
    """A `Graph` gathers nodes and constants, and writes them as a model.

    Args:
      opset: the version of ONNX's operators.
      sizes: where the sizes that only the inputs tell are found: an input's name and axis, by the size as text.

    Attributes:
      nodes: as they were made.
      makers: the node that makes a tensor, by the tensor's name.
      shapes: the shapes of the tensors in floating point that nodes make, by name.
      in_floating_point: the dense layers that do not run on integers.
      rounded: the tensors that are rounded, in the order of the trace.
    """

    def __init__(self, opset: int, sizes: dict[str, tuple[str, int]]):
        self.opset, self._sizes = opset, sizes
        self.nodes: list[_Node] = []
        self._known: dict[Any, list[str]] = {}
        self._constants: dict[Any, str] = {}
        self._values: dict[str, np.ndarray] = {}
        self._labels: dict[str, str] = {}
        self._labelled: dict[str, str] = {}
        self._parameters: dict[bytes, str] = {}
        self.makers: dict[str, _Node] = {}
        self.shapes: dict[str, Shape] = {}
        self.in_floating_point: list[str] = []
        self.rounded: list[Rounded] = []

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Returns the names of the outputs of a node, which is made unless the same one is there."""
        key = (op, inputs, outputs, tuple(sorted((name, str(value)) for name, value in attributes.items())))
        if key not in self._known:
            number = len(self.nodes)
            names = [f"{op}_{number}" if outputs == 1 else f"{op}_{number}_{i}" for i in range(outputs)]
            node = _Node(op, list(inputs), names, attributes)
            self.nodes.append(node)
            self.makers |= dict.fromkeys(names, node)
            self._known[key] = names
        return self._known[key]

    def constant(self, value: Any, dtype: Any = None, owner: str = "") -> str:
        """Returns the name of a constant, which is made unless the same one is there, of the same owner."""
        array = np.ascontiguousarray(np.asarray(value, dtype))
        array = array.reshape(np.shape(value))  # of a scalar too
        digest = hashlib.blake2b(array.data).digest()
        key = (owner, array.dtype.str, array.shape, digest)
        if key not in self._constants:
            self._constants[key] = name = f"constant_{len(self._values)}"
            self._values[name] = array
            if not owner and digest in self._parameters:
                self.label(name, self._parameters[digest])
        return self._constants[key]

    def parameter(self, value: np.ndarray, label: str) -> None:
        """Gives a label to the constant that a parameter becomes, in whatever shape; the first one, if others have the
        same values."""
        self._parameters.setdefault(hashlib.blake2b(np.ascontiguousarray(value).data).digest(), label)

    def value_of(self, name: str) -> np.ndarray | None:
        """Returns the value of a constant; None: the name is another tensor's."""
        return self._values.get(name)

    def label(self, name: str, label: str) -> str:
        """Names a tensor in the written graph, unless it has a name or the name is taken; returns its name here."""
        if label not in self._labelled:
            self._labelled[label] = name
            self._labels.setdefault(name, label)
        return name

    def at_site(self, tensor: Tensor, label: str) -> Tensor:
        """Returns the tensor at a site, which has the site's label and no other in the written graph, if it is in
        floating point there: so each site has a tensor of its own."""
        if tensor.quantized is not None:
            self.label(self.use(tensor), label)
            return tensor
        if tensor.name not in self.makers or tensor.name in self._labels:
            tensor = self.made("Identity", [self.use(tensor)], tensor.shape, tensor.dtype)
        self.label(tensor.name, label)
        return tensor

    def use(self, tensor: Tensor) -> str:
        """Returns the name of a tensor's values."""
        if tensor.value is not None:
            return self.constant(tensor.value)
        if tensor.quantized is not None:
            q = tensor.quantized
            told = [q.name, self.constant(q.scale), self.constant(q.zero_point)]
            return self.made("DequantizeLinear", told, tensor.shape, tensor.dtype).name
        return tensor.name

    def made(self, op: str, inputs: Sequence[str], shape: Shape, dtype: Any, **attributes: Any) -> Tensor:
        """Returns the tensor that a node with one output makes."""
        [name] = self.node(op, *inputs, **attributes)
        self.shapes[name] = shape
        return Tensor(shape, np.dtype(dtype), name)

    def moved(self, tensor: Tensor, op: str, inputs: Sequence[str], shape: Shape, **attributes: Any) -> Tensor:
        """Returns the tensor that a node makes which only moves values, of integers where there are some."""
        if tensor.quantized is None:
            return self.made(op, [self.use(tensor), *inputs], shape, tensor.dtype, **attributes)
        name = self.node(op, tensor.quantized.name, *inputs, **attributes)[0]
        return Tensor(shape, tensor.dtype, quantized=dataclasses.replace(tensor.quantized, name=name))

    def size(self, size: Any) -> str:
        """Returns the name of a size of an axis, int64 `[1]`."""
        if isinstance(size, int):
            return self.constant([size], np.int64)
        name, axis = self._sizes[str(size)]
        return self.node("Shape", name, start=axis, end=axis + 1)[0]

    def sizes(self, shape: Shape) -> str:
        """Returns the name of a shape, int64 `[rank]`."""
        if all(isinstance(size, int) for size in shape):
            return self.constant(shape, np.int64)
        return self.node("Concat", *map(self.size, shape), axis=0)[0]

    def expanded(self, tensor: Tensor, shape: Shape) -> Tensor:
        """Returns a tensor with all its values."""
        if tensor.shape == shape:
            return tensor
        if tensor.value is not None and all(isinstance(size, int) for size in shape):
            return Tensor(shape, tensor.dtype, value=np.broadcast_to(tensor.value, shape))
        return self.made("Expand", [self.use(tensor), self.sizes(shape)], shape, tensor.dtype)

    def reshaped(self, tensor: Tensor, shape: Shape) -> Tensor:
        """Returns a tensor, which has all its values, in another shape."""
        if tensor.shape == shape:
            return tensor
        if tensor.value is not None:
            return Tensor(shape, tensor.dtype, value=tensor.value.reshape(shape))
        maker = None if tensor.name in self._labels else self.makers.get(tensor.name)  # what has a name may be rounded
        if maker is not None and maker.op == "Reshape" and self.shapes.get(maker.inputs[0]) == shape:
            return Tensor(shape, tensor.dtype, maker.inputs[0])
        # 0 copies the size of the same axis, and -1 is what is left.
        kept = [0 if i < len(tensor.shape) and same(tensor.shape[i], size) else size for i, size in enumerate(shape)]
        wanted = [size if isinstance(size, int) else -1 for size in kept]
        target = self.constant(wanted, np.int64) if wanted.count(-1) <= 1 else self.sizes(shape)
        return self.moved(tensor, "Reshape", [target], shape)

    def model(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: dict[str, Tensor], metadata: dict[str, str]
    ) -> tuple[onnx.ModelProto, dict[str, str]]:
        """Returns the model of given inputs and outputs, with the nodes that the outputs need, and the names that
        labelled tensors have in it, by label; empty: the outputs do not need the tensor."""
        ends = {self.use(tensor): name for name, tensor in outputs.items()}
        names, nodes, needed = self._labels | ends, [], set(ends)
        for node in reversed(self.nodes):
            if needed & set(node.outputs):
                needed.update(node.inputs)
                nodes.append(node)
        made = [
            helper.make_node(
                node.op,
                [names.get(name, name) for name in node.inputs],
                [names.get(name, name) for name in node.outputs],
                name=f"{names.get(node.outputs[0], node.outputs[0])}/{node.op}",
                **node.attributes,
            )
            for node in reversed(nodes)
        ]
        constants = [
            numpy_helper.from_array(x, names.get(name, name)) for name, x in self._values.items() if name in needed
        ]
        described = [describe(name, tensor.dtype, tensor.shape) for name, tensor in outputs.items()]
        graph = helper.make_graph(made, "qtx", list(inputs), described, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], producer_name="qtx")
        model.ir_version = helper.find_min_ir_version_for(model.opset_import)
        helper.set_model_props(model, metadata)
        return model, {label: names[name] if name in needed else "" for label, name in self._labelled.items()}


def describe(name: str, dtype: Any, shape: Shape) -> onnx.ValueInfoProto:
    """Describes an input or an output."""
    kind: TensorProto.DataType = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, [x if isinstance(x, int) else str(x) for x in shape])


def same(one: Any, other: Any) -> bool:
    """Says whether two sizes that only the inputs tell are the same one."""
    return not isinstance(one, int) and not isinstance(other, int) and str(one) == str(other)
