"""Where grids are exact: the model in float32, its matrix products at the highest precision.

bfloat16 has 8 significant bits: cast to it, a value of an 8-bit grid moves by up to half a step. GPUs and TPUs multiply
float32 as TF32 or bfloat16 unless told otherwise, which moves values across the edges between integers. So whatever is
quantized, calibrated or compared with what is quantized runs through `apply`, whatever the model was trained in.
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
    """`function`, with the matrix products that are traced within it at the highest precision."""

    @functools.wraps(function)
    def at_highest_precision(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return at_highest_precision


@exactly
def apply(module: nn.Module, variables: Any, batch: Any, **kwargs: Any) -> Any:
    """What `module.apply` returns, computed exactly."""
    return float32(module).apply(variables, batch, **kwargs)


def float32(module: Any) -> nn.Module:
    """The module, computing in float32; one that has no config as it is."""
    if not hasattr(module, "config"):
        return module
    return module.clone(config=dataclasses.replace(module.config, dtype="float32"))
