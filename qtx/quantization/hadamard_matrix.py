"""This module multiplies by Hadamard matrices of any order without making them: each is a product of two small ones."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np


def transform(x: jax.Array, axis: int = -1, inverse: bool = False) -> jax.Array:
    """Multiplies by an orthogonal matrix H along an axis of D entries: `x H` for the last axis; `inverse`: `x H^T`.

    H is S (x) B, of the orders n and D / n of `factors(D)`: a token takes D (n + D / n) products, and not D^2.
    """
    first, second = (jnp.asarray(f.T if inverse else f, x.dtype) for f in factors(x.shape[axis]))
    x = jnp.moveaxis(x, axis, -1)
    apart = x.reshape(*x.shape[:-1], len(first), len(second))
    # By default, accelerators multiply float32 in fewer bits, with a larger error than a 16-bit grid's.
    highest = jax.lax.Precision.HIGHEST
    apart = jnp.einsum("...ij,jl->...il", apart, second, precision=highest)
    apart = jnp.einsum("...il,ik->...kl", apart, first, precision=highest)
    return jnp.moveaxis(apart.reshape(x.shape), -1, axis)


@functools.cache
def factors(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes S and B of an orthogonal matrix S (x) B `[size, size]` whose entries are as equal as can be.

    S is Sylvester's Hadamard matrix of order 2^k and B the smallest one of Paley's first construction (orders 1, 12,
    20, 24, 44, ...) such that size = 2^k times B's order, both divided by the roots of their orders. If there is none,
    B is a random orthogonal matrix, and its order the odd part of size. So 768 is 64 * 12, and 100 is 4 * 25 with a
    random B, since 5 is no power of 2 in 5 * 20.
    """
    odd = size
    while odd % 2 == 0:
        odd //= 2
    orders = [odd * 2**k for k in range(size.bit_length()) if size % (odd * 2**k) == 0]
    order = next((order for order in orders if order == 1 or is_paley(order)), None)
    if order is None:
        order, base = odd, np.linalg.qr(np.random.default_rng(0).normal(size=(odd, odd)))[0]
    else:
        base = paley(order) / np.sqrt(order)
    sylvester = np.ones((1, 1))
    for _ in range((size // order).bit_length() - 1):
        sylvester = np.kron(sylvester, np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2))
    return sylvester, base


def is_paley(order: int) -> bool:
    """Says whether order - 1 is a prime that is 3 modulo 4."""
    q = order - 1
    return q % 4 == 3 and all(q % divisor for divisor in range(2, int(q**0.5) + 1))


def paley(order: int) -> np.ndarray:
    """Makes the Hadamard matrix of `order`, 1 or q + 1 for a prime q = 3 modulo 4 (Paley 1933): I + S, S skew, made of
    the quadratic residues: S_ij = 1 if i - j is a square modulo q, else -1."""
    if order == 1:
        return np.ones((1, 1))
    q = order - 1
    squares = {i * i % q for i in range(1, q)}
    residue = np.array([0] + [1 if i in squares else -1 for i in range(1, q)])
    skew = np.zeros((order, order))
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = residue[np.subtract.outer(np.arange(q), np.arange(q)) % q]
    return np.eye(order) + skew
