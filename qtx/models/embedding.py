"""Modules that follow the pooling in an encoder of texts: dense layers and normalizations of sentence-transformers.

A config names them in one text, e.g. `dense,outputs=256 + normalize + dense,outputs=64,activation=Identity`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.foundation.limits import Checked, at_least, one_of
from qtx.foundation.variants import make_variants, variant_text
from qtx.layers import dense
from qtx.models.activations import exact_gelu
from qtx.models.pooling import normalized, pooled
from qtx.parts import Part
from qtx.sites import Site

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "Identity": lambda x: x,
    "Tanh": jnp.tanh,
    "ReLU": jax.nn.relu,
    "GELU": exact_gelu,
    "SiLU": jax.nn.silu,
    "Sigmoid": jax.nn.sigmoid,
}
"""Activations by their names in `torch.nn`."""


@dataclasses.dataclass(frozen=True)
class Dense(Checked):
    """A dense layer with an activation.

    Attributes:
      outputs: the number of outputs, which has to be given.
      activation: a name in `ACTIVATIONS`.
      bias: whether there is a bias.
    """

    outputs: Annotated[int, at_least(1)] = 0
    activation: Annotated[str, one_of(ACTIVATIONS)] = "Tanh"
    bias: bool = True

    def in_words(self) -> str:
        """Describes the layer, e.g. `dense to 256 (Tanh)`."""
        return f"dense to {self.outputs} ({self.activation})"


@dataclasses.dataclass(frozen=True)
class Normalize:
    """A division by the L2 norm."""

    def in_words(self) -> str:
        """Describes the division as `normalized`."""
        return "normalized"


Module = Dense | Normalize
MODULES: dict[str, type[Any]] = {"dense": Dense, "normalize": Normalize}


@functools.cache
def modules_of(text: str) -> tuple[Module, ...]:
    """Returns the modules that a text names, in their order; the empty text names none.

    Raises:
      QtxError: for an unknown module or option, or a bad value.
    """
    return make_variants(MODULES, "module after the pooling", text) if text else ()


def modules_text(modules: tuple[Module, ...]) -> str:
    """Returns the text that names modules: the inverse of `modules_of`."""
    return " + ".join(variant_text(MODULES, module) for module in modules)


class EmbeddingHead(nn.Module):
    """The embedding of a text, float32 `[B, D]`: its hidden states `[B, T, width]` pooled, and what follows.

    Attributes:
      pooling: see `qtx.models.pooling`.
      modules: what follows.
      normalize: whether the last vector is divided by its L2 norm.
      init_std: the standard deviation of initial kernels.
      dtype: the dtype of the dense layers.
    """

    pooling: str
    modules: tuple[Module, ...] = ()
    normalize: bool = False
    init_std: float = 0.02
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: jax.Array, counted: jax.Array) -> jax.Array:
        """Computes the embedding; `counted` `[B, T]` says which tokens are pooled."""
        x, layers = Site(Part.HEAD, name="pooled")(pooled(hidden, counted, self.pooling, normalize=False)), 0
        for number, module in enumerate(self.modules):
            if isinstance(module, Dense):
                options: dict[str, Any] = {"use_bias": module.bias, "part": Part.HEAD}
                x = dense(module.outputs, ("embed", None), self.init_std, self.dtype, f"dense_{layers}", **options)(x)
                x, layers = ACTIVATIONS[module.activation](x), layers + 1
            else:
                x = normalized(x)
            x = Site(Part.HEAD, name=f"module_{number}")(x)
        x = x.astype(jnp.float32)
        return normalized(x) if self.normalize else x
