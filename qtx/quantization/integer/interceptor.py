"""Runs a model's blocks on integers, and rounds the sites around them to their grids.

All that a layer needs is in the variable collection `integer`, shaped like the module tree, with a leading layer axis
under the scanned `layers`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import flax.linen as nn

from qtx.errors import QtxError
from qtx.models.block import Block
from qtx.quantization.integer.block import block
from qtx.quantization.integer.tensor import on_grid
from qtx.quantization.interceptor import SITE_MODULES

COLLECTION = "integer"


@contextlib.contextmanager
def on_integers() -> Iterator[None]:
    """Within the context, `Block` is `block` on the collection's integers; embeddings and head are fake-quantized."""

    def interceptor(next_function, args, kwargs, context):
        module: Any = context.module
        if context.method_name != "__call__":
            return next_function(*args, **kwargs)
        # By type, not isinstance: the scanned stack and a rematerialized block are subclasses that call Block.
        if type(module) is Block:
            if not module.deterministic:
                raise QtxError("an integer model does not train: call apply with train=False")
            variables = module.variables[COLLECTION]
            return block(module.config, module.pre_norm, module.activation, variables, *args, **kwargs), None
        y = next_function(*args, **kwargs)
        if isinstance(module, (*SITE_MODULES, nn.Embed)) and module.has_variable(COLLECTION, "grid"):
            return on_grid(y, {"grid": module.get_variable(COLLECTION, "grid")}).real
        return y

    with nn.intercept_methods(interceptor):
        yield
