"""A model that runs on integers."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from qtx.anatomy import Anatomy, read
from qtx.foundation.errors import QtxError
from qtx.quantization import float32_only
from qtx.quantization.integer.interceptor import COLLECTION, on_integers
from qtx.quantization.integer.kernels import Tensors

OF_KERNELS = ("kernel", "kernel_scale", "kernel_bits", "kernel_zero_point", "bias")
"""The arrays of a dense layer that are of its parameters alone."""


@dataclasses.dataclass(frozen=True)
class IntegerModel:
    """A model that multiplies int8 by int8 into int32, the two products of attention included.

    Softmax, LayerNorm, activation functions, residual sums and the gates' factors run in float32 between the products,
    with their sites rounded to the same grids.

    Attributes:
      module: the model, computing in float32.
      in_floating_point: paths of the matrix products that do not run on integers, as an operand is in floating point,
        is no site's output or is in another basis, or as no `Dense` or `Product` computes them; also, so marked,
        sites whose rotation is computed in floating point.
      params: the arrays that stay in floating point, by path. A word embedding table that the head is tied to is one:
        look-ups are rounded to its grid, but the head multiplies by the unquantized table (see `Recipe`).
      integers: int8 kernels and tables, their scales and zero-points, biases, and the grids of sites and of products'
        operands, by path; `[L, ...]` under `layers/`, but for what belongs to a kernel that all layers share. See
        `interceptor`.
    """

    module: nn.Module
    in_floating_point: tuple[str, ...]
    params: Tensors
    integers: Tensors

    def apply(self, batch: dict[str, jax.Array], **kwargs: Any) -> Any:
        """Returns what `Quantized.apply` does for `batch`, up to values that lie on the edge between two integers.

        The call is traceable: compile it with `jit`.

        Raises:
          QtxError: if called with train=True.
        """
        if kwargs.get("train"):
            raise QtxError("an integer model does not train: call apply with train=False")
        tables = {path for path in self.integers if path.endswith("/table")}
        params = self.params | {path.removesuffix("table") + "embedding": self._table(path) for path in tables}
        anatomy = read(self.module, self.module.config.example())
        integers = {path: _of_layers(anatomy, path, x) for path, x in self.integers.items() if path not in tables}
        with on_integers():
            variables = {"params": _nested(params), COLLECTION: _nested(integers)}
            return float32_only.apply(self.module, variables, batch, **kwargs)

    def _table(self, path: str) -> jax.Array:
        """Computes an embedding table `[rows, width]` from its integers and the grid of its look-ups."""
        grid = path.removesuffix("table") + "grid"
        scale, zero_point = self.integers[f"{grid}/scale"], self.integers[f"{grid}/zero_point"]
        return scale * (self.integers[path].astype(jnp.float32) - zero_point)


jax.tree_util.register_dataclass(
    IntegerModel, data_fields=["params", "integers"], meta_fields=["module", "in_floating_point"]
)


def as_table(path: str) -> str:
    """Returns the path of the integers of an embedding table, given that of the table; of other paths, the same."""
    return re.sub("/embedding$", "/table", path)


def _nested(tensors: Tensors) -> Any:
    return traverse_util.unflatten_dict(tensors, sep="/")


def _of_layers(anatomy: Anatomy, path: str, x: jax.Array) -> jax.Array:
    """Returns an array with an axis of layers `[L, ...]` if it belongs to a kernel that L layers share."""
    layer, _, name = path.rpartition("/")
    sharing = anatomy.sharing(f"{layer}/kernel") if name in OF_KERNELS else 0
    return jnp.broadcast_to(x, (sharing, *x.shape)) if sharing else x
