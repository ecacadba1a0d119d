"""SmoothQuant: the outliers of LayerNorm outputs move into the weights that multiply them."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from qtx.foundation.errors import QtxError
from qtx.foundation.limits import within
from qtx.quantization.methods.base import Method
from qtx.quantization.methods.inputs import absmax
from qtx.quantization.methods.norms import at_norms, layers_fed_by_norms
from qtx.quantization.plan import flatten

SMALLEST = 1e-5


@dataclasses.dataclass(frozen=True)
class SmoothQuant(Method):
    """Per-channel smoothing (Xiao et al. 2022, eq. 4): x W = (x diag(1/s)) (diag(s) W) with

        s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)

    for every norm's output x `[N, D]` in a stack that dense layers of the stack multiply, their kernels side by side as
    W: query, key and value, or the first layers of the MLP. max|x_j| is over the calibration data, in floating point. A
    channel whose activation or weight is all zeros keeps s_j = 1.

    The integers hold x / s and s W, by the mechanism of `qtx.quantization.basis`. They hold the LayerNorm's scale g as
    g / s: in integers the smoothing is a part of that scale and costs nothing. Where the LayerNorm also feeds the
    residual sum (a post-LN block's, BERT) or a gate's predictor, these read the unsmoothed value: a factor s per
    channel when they rescale. The last LayerNorm, which feeds the head, is left as it is.

    Attributes:
      alpha: how much of the difficulty moves into the weights, 0 to 1.
    """

    makes = ("smooth",)

    alpha: Annotated[float, within("[0, 1]", remedy="e.g. 0.5")] = 0.5

    def find_bases(self, problem):
        fed, flat = layers_fed_by_norms(problem.anatomy), flatten(problem.params)
        if not fed:
            raise QtxError(
                "smoothquant finds no norm in a stack of layers whose output dense layers multiply: choose another "
                "method, such as gptq"
            )
        # Layers that multiply the same tensor have the same input: the first layer's stands for all.
        inputs = problem.inputs((layers[0] for layers in fed.values()), absmax, jnp.maximum, in_bases=True)
        found: dict[str, jax.Array] = {}
        for origin, layers in fed.items():
            of_weights = [jnp.abs(flat[f"{layer}/kernel"]).max(axis=-1) for layer in layers]
            s = factors(inputs[layers[0]], jnp.stack(of_weights).max(axis=0), self.alpha)
            norms = at_norms(origin, s, 1.0)
            scales = {f"{norm}/scale": s for norm, s in norms.items() if f"{norm}/scale" in flat}
            found |= norms | scales | {f"{layer}/kernel": s for layer in layers}
        return {path: {"smooth": s} for path, s in found.items()}


def factors(activation: jax.Array, weight: jax.Array, alpha: float) -> jax.Array:
    """Computes s of the absolute maxima of activation channels and of the weight rows that they meet, same shapes."""
    s = jnp.maximum(activation, SMALLEST) ** alpha / jnp.maximum(weight, SMALLEST) ** (1 - alpha)
    return jnp.where((activation > 0) & (weight > 0), jnp.maximum(s, SMALLEST), 1.0)
