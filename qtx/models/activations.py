"""Activations of feed-forward networks, by the names that `transformers` has for them.

Several names mean one function: a model keeps the name that its checkpoint has, to be written with it again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

exact_gelu = functools.partial(jax.nn.gelu, approximate=False)
"""GELU: x Phi(x), Phi the normal distribution function (Hendrycks and Gimpel 2016, arXiv 1606.08415)."""
tanh_gelu = functools.partial(jax.nn.gelu, approximate=True)
"""The approximation x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) of GELU, of the same paper."""


def quick_gelu(x: jax.Array) -> jax.Array:
    """Computes x sigmoid(1.702 x), the other approximation of GELU by Hendrycks and Gimpel."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": exact_gelu,
    "gelu_python": exact_gelu,
    "gelu_new": tanh_gelu,
    "gelu_fast": tanh_gelu,
    "gelu_pytorch_tanh": tanh_gelu,
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}
