"""The walk through a trace: its equations become nodes, one after the other, and what is known is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from qtx.foundation.errors import QtxError
from qtx.onnx.graph import Graph, Tensor
from qtx.onnx.modules import MODULES, Place
from qtx.onnx.operations import OPERATIONS

INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def walk(graph: Graph, place: Place, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Returns the outputs of a trace on inputs; its nodes are added to the graph.

    Raises:
      QtxError: for an operation that has no form in ONNX.
    """
    held: dict[Any, Tensor] = dict(zip(jaxpr.constvars, map(known, constants), strict=True))
    held |= zip(jaxpr.invars, inputs, strict=True)

    def read(v: Any) -> Tensor:
        return known(v.val) if isinstance(v, jax.extend.core.Literal) else held[v]

    for equation in jaxpr.eqns:
        found = _outputs(graph, place, equation, [read(v) for v in equation.invars])
        held |= zip(equation.outvars, found, strict=True)
    return [graph.expanded(read(v), _shape(v)) for v in jaxpr.outvars]


def known(value: Any, parameter: str = "") -> Tensor:
    """Returns a value as a tensor, perhaps that of a parameter."""
    array = np.asarray(value)
    return Tensor(array.shape, array.dtype, value=array, parameter=parameter)


def _shape(v: Any) -> tuple[Any, ...]:
    return tuple(v.aval.shape)


def _outputs(graph: Graph, place: Place, equation: Any, inputs: list[Tensor]) -> list[Tensor]:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return _unrolled(graph, place, equation, inputs)
    inner = next((params[key] for key in INNER if key in params), None)
    if inner is not None:
        return walk(graph, place, getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs)
    if name in MODULES:
        return MODULES[name](graph, place, inputs, equation)
    sizes = [size for v in equation.outvars for size in _shape(v)]
    if inputs and all(x.value is not None for x in inputs) and all(isinstance(size, int) for size in sizes):
        return _computed(equation, inputs)
    if name not in OPERATIONS:
        raise QtxError(f"the operation {name} has no form in ONNX yet, in {list(map(_shape, equation.invars))}")
    return OPERATIONS[name](graph, inputs, equation)


def _computed(equation: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Returns what an equation makes of known inputs."""
    whole = [np.broadcast_to(x.known, _shape(v)) for x, v in zip(inputs, equation.invars, strict=True)]
    made = equation.primitive.bind(*map(jax.numpy.asarray, whole), **equation.params)
    return list(map(known, made if equation.primitive.multiple_results else [made]))


def _unrolled(graph: Graph, place: Place, equation: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Returns the outputs of a scan over layers, layer by layer."""
    params = equation.params
    consts, carry = params["num_consts"], params["num_carry"]
    shared, carried, rows = inputs[:consts], list(inputs[consts : consts + carry]), inputs[consts + carry :]
    if len(equation.outvars) > carry or params["reverse"] or any(x.value is None for x in rows):
        raise QtxError("a loop that is not one over layers has no form in ONNX yet")
    body, stacked = params["jaxpr"], [_shape(v) for v in equation.invars[consts + carry :]]
    for layer in range(params["length"]):
        own = [known(np.broadcast_to(x.known, shape)[layer]) for x, shape in zip(rows, stacked, strict=True)]
        there = dataclasses.replace(place, layer=layer)
        for x, row in zip(own, rows, strict=True):
            if row.parameter:
                graph.parameter(x.known, there.label(row.parameter))
        carried = walk(graph, there, body.jaxpr, body.consts, [*shared, *carried, *own])
    return carried
