"""What converting and loading must know of a model: its parameters' shapes, and how its blocks are wired."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from qtx.models.block import Block
from qtx.quantization.integer.model import Tensors
from qtx.quantization.weights import flatten, is_table


class Outline(NamedTuple):
    """A model as seen from outside.

    Attributes:
      shapes: parameter path to shape.
      pre_norm: whether its blocks are pre-LN.
    """

    shapes: dict[str, tuple[int, ...]]
    pre_norm: bool


def outline(module: nn.Module) -> Outline:
    """The outline of a model, found by tracing its initialization on the smallest batch, without computing."""
    blocks = []

    def interceptor(next_function, args, kwargs, context):
        if type(context.module) is Block:
            blocks.append(context.module.pre_norm)
        return next_function(*args, **kwargs)

    with nn.intercept_methods(interceptor):
        variables = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), _smallest_batch(module)))
    return Outline({path: leaf.shape for path, leaf in flatten(variables["params"]).items()}, blocks[0])


def _smallest_batch(module: Any) -> dict[str, np.ndarray]:
    c = module.config
    if hasattr(c, "image_size"):
        return {"images": np.zeros((1, c.image_size, c.image_size, c.channels), np.float32)}
    return {"tokens": np.zeros((1, 1), np.int32)}


def misfit(module: nn.Module, params: Tensors, integers: Tensors) -> str | None:
    """What keeps arrays from being an integer model of `module`: the first that is missing or misshapen, or None."""
    shapes, _ = outline(module)
    for path, shape in shapes.items():
        site = path.rpartition("/")[0]
        predictor = path.replace("/gate_predictor/", "/gate_predictor/parameters/")
        places = {f"params/{path}": params.get(path), f"integers/{predictor}": integers.get(predictor)}
        places[f"integers/{site}/table"] = integers.get(f"{site}/table") if is_table(path) else None
        found = {name: x for name, x in places.items() if x is not None}
        if not found:
            return f"lacks {path!r}, which the model has"
        for name, x in found.items():
            if x.shape != shape:
                return f"{name!r} has shape {x.shape}, but the model's is {shape}"
    return None
