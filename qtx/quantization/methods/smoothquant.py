"""SmoothQuant: the outliers of LayerNorm outputs move into the weights that multiply them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qtx.foundation.errors import QtxError
from qtx.quantization.methods.base import Method
from qtx.quantization.methods.inputs import absmax, of_inputs
from qtx.quantization.plan import flatten

ATTENTION_INPUT = ("layers/attention/query", "layers/attention/key", "layers/attention/value")
MLP_INPUT = ("layers/mlp/in", "layers/mlp/gate")
"""The MLP's first dense layer and, in a gated MLP (SwiGLU), its gate."""
NORMS = ("layers/attention_norm/scale", "layers/mlp_norm/scale")
SMALLEST = 1e-5


@dataclasses.dataclass(frozen=True)
class SmoothQuant(Method):
    """Per-channel smoothing (Xiao et al. 2022, eq. 4): x W = (x diag(1/s)) (diag(s) W) with

        s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)

    for every LayerNorm output x `[N, D]` that dense layers multiply, their kernels side by side as W: query, key and
    value, or the first layers of the MLP. max|x_j| is over the calibration data, in floating point. A channel whose
    activation or weight is all zeros keeps s_j = 1.

    The integers hold x / s and s W, by the mechanism of `qtx.quantization.basis`. They hold the LayerNorm's scale g as
    g / s: in integers the smoothing is a part of that scale and costs nothing. Where the LayerNorm also feeds the
    residual sum (a post-LN block's, BERT) or a gate's predictor, these read the unsmoothed value: a factor s per
    channel when they rescale. The last LayerNorm, which feeds the head, is left as it is.

    Attributes:
      alpha: how much of the difficulty moves into the weights, 0 to 1.

    Raises:
      QtxError: if alpha is not in [0, 1].
    """

    alpha: float = 0.5

    def __post_init__(self):
        if not 0 <= self.alpha <= 1:
            raise QtxError(f"alpha is {self.alpha}: expected 0 to 1, e.g. 0.5")

    def find_bases(self, module, params, batches):
        flat = flatten(params)
        missing = {*NORMS, *(f"{layer}/kernel" for layer in (*ATTENTION_INPUT, MLP_INPUT[0]))} - flat.keys()
        if missing:
            raise QtxError(
                f"smoothquant is for blocks with {', '.join(sorted(missing))}, which this model lacks: choose another "
                "method, such as gptq"
            )
        # Layers that multiply the same tensor have the same input: the first layer's stands for all.
        inputs = of_inputs(module, params, batches, (ATTENTION_INPUT[0], MLP_INPUT[0]), absmax, jnp.maximum)
        mlp_input = tuple(layer for layer in MLP_INPUT if f"{layer}/kernel" in flat)

        def smooth(layers: tuple[str, ...]) -> jax.Array:
            of_weights = [jnp.abs(flat[f"{layer}/kernel"]).max(axis=-1) for layer in layers]
            return factors(inputs[layers[0]], jnp.stack(of_weights).max(axis=0), self.alpha)

        attention, mlp = smooth(ATTENTION_INPUT), smooth(mlp_input)
        smooths = {f"{layer}/kernel": attention for layer in ATTENTION_INPUT}
        smooths |= {f"{layer}/kernel": mlp for layer in mlp_input}
        if "final_norm/scale" in flat:
            norms = {"layers/attention_norm": attention, "layers/mlp_norm": mlp}
        else:
            # Post-LN: each layer's attention reads the last LayerNorm of the layer before; the first layer's reads that
            # of the embeddings or, if there is none (OPT-350m), the embeddings' sum.
            first = "embeddings/norm" if "embeddings/norm/scale" in flat else "embeddings/sum"
            norms = {
                first: attention[0],
                "layers/mlp_norm": jnp.concatenate([attention[1:], jnp.ones_like(attention[:1])]),
                "layers/attention_norm": mlp,
            }
        for norm, s in norms.items():
            smooths |= {path: s for path in (norm, f"{norm}/scale") if path != "embeddings/sum/scale"}
        return {path: {"smooth": s} for path, s in smooths.items()}


def factors(activation: jax.Array, weight: jax.Array, alpha: float) -> jax.Array:
    """Computes s of the absolute maxima of activation channels and of the weight rows that they meet, same shapes."""
    s = jnp.maximum(activation, SMALLEST) ** alpha / jnp.maximum(weight, SMALLEST) ** (1 - alpha)
    return jnp.where((activation > 0) & (weight > 0), jnp.maximum(s, SMALLEST), 1.0)
