"""Activations of feed-forward networks, by the names that `transformers` has for them.

Several names mean one function: it is a model's own name that its checkpoint says again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax

exact_gelu = functools.partial(jax.nn.gelu, approximate=False)
"""x Phi(x), Phi the normal distribution (Hendrycks and Gimpel 2016, arXiv 1606.08415)."""
tanh_gelu = functools.partial(jax.nn.gelu, approximate=True)
"""Its approximation x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), of the same paper."""


def quick_gelu(x: jax.Array) -> jax.Array:
    """x sigmoid(1.702 x), the same paper's other approximation."""
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
}
