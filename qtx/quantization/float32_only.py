"""Exact grids: the model in float32, its matrix products at the highest precision.

bfloat16 has 8 significant bits: cast to it, a value of an 8-bit grid moves by up to half a step. GPUs and TPUs multiply
float32 as TF32 or bfloat16 unless told otherwise, which moves values across the edges between integers. So every model
that is quantized, calibrated or compared with a quantized one runs through `apply`, whatever dtype it was trained in.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import flax.linen as nn
import jax

P = ParamSpec("P")
R = TypeVar("R")


def exactly(function: Callable[P, R]) -> Callable[P, R]:
    """Wraps `function` such that the matrix products traced within it have the highest precision."""

    @functools.wraps(function)
    def at_highest_precision(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return at_highest_precision


@exactly
def apply(module: nn.Module, variables: Any, batch: Any, **kwargs: Any) -> Any:
    """Returns what `module.apply` does, computed in float32 at the highest precision."""
    return float32(module).apply(variables, batch, **kwargs)


def float32(module: Any) -> nn.Module:
    """Returns the module, computing in float32; a module without a config is returned as it is."""
    if not hasattr(module, "config"):
        return module
    return module.clone(config=dataclasses.replace(module.config, dtype="float32"))
