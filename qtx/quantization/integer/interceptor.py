"""Running a model's matrix products on integers, and rounding its sites to their grids.

All that a module needs is in the variable collection `integer`, shaped like the module tree, with a leading layer axis
under the scanned `layers`: a site's node has its "grid"; a dense layer's node has the grid of its "input" too, and its
kernel (see `products.integer_dense`); a product's node has the grids of "left" and "right". A product's operands lie on
these grids, so that their integers are exact.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.layers import Product
from qtx.quantization.affine import Grid
from qtx.quantization.basis import basis_of, enter
from qtx.quantization.integer import products
from qtx.quantization.integer.grids import Fields, grid_of, on_grid
from qtx.sites import SITES_AND_TABLES, watching

COLLECTION = "integer"


@contextlib.contextmanager
def on_integers() -> Iterator[None]:
    """Makes modules with variables in the collection `integer` compute on these variables, within the context."""

    def interceptor(next_function, args, kwargs, context):
        module: Any = context.module
        if context.method_name != "__call__":
            return next_function(*args, **kwargs)
        node: Mapping[str, Any] = module.variables.get(COLLECTION, {})
        if isinstance(module, nn.Dense) and "kernel" in node:
            [x] = args
            x, grid = _integers(x, node["input"]) if "input" in node else (x, None)
            y = products.integer_dense(x, grid, node)
        elif isinstance(module, Product) and "left" in node:
            left, right = (_integers(x, node[side]) for x, side in zip(args, ("left", "right"), strict=True))
            y = products.product(module.equation, *left, *right) * module.scale
        else:
            y = next_function(*args, **kwargs)
        rounded = isinstance(module, SITES_AND_TABLES) and "grid" in node
        return on_grid(y, node["grid"]) if rounded else y

    with watching(lambda path: True), nn.intercept_methods(interceptor):
        yield


def _integers(x: jax.Array, fields: Fields) -> tuple[jax.Array, Grid]:
    """Returns the int8 of a tensor that lies on a grid, in the grid's basis, and the grid."""
    grid = grid_of(fields)
    return grid.quantize(enter(x, basis_of(fields))).astype(jnp.int8), grid
