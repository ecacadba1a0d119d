"""Quantizing a tensor in another basis: what SmoothQuant and rotations do, without touching the model.

If x W = (x M) (M^-1 W), the integers may hold x M and M^-1 W instead of x and W. A range that carries M is the range of
the tensor in that basis: the tensor enters the basis, is rounded there, and leaves. In floating point nothing changes.
A range carries the array of each kind of basis under its name in `BASES`. A new kind is a line there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qtx.quantization.hadamard_matrix import transform

Basis = Mapping[str, jax.Array]
Bases = Mapping[str, Basis]
"""The basis of each site or weight by path, with a leading `[L]` in a stack of layers."""

Move = Callable[[jax.Array, jax.Array], jax.Array]


class Kind(NamedTuple):
    """A `Kind` says how tensors enter a basis, given the basis's array, and how they leave it.

    Attributes:
      rank: the number of axes of the array, each as long as an activation's last: 1 for `[D]`, 2 for `[D, D]`.
      enter, leave: bring an activation `[..., D]` into the basis, and back.
      enter_weight, leave_weight: bring a weight `[D, F]` into the basis, and back; None: a weight stays as it is.
      mixes: whether an entry of a tensor in the basis is made of several: integers cannot enter it.
    """

    rank: int
    enter: Move
    leave: Move
    enter_weight: Move | None = None
    leave_weight: Move | None = None
    mixes: bool = False


# By default, accelerators multiply float32 in fewer bits, with a larger error than a 16-bit grid's.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

BASES: dict[str, Kind] = {
    # A shift z `[D]`: the integers hold x - z. The product (x - z) W lacks z W, which is added as a bias is.
    "shift": Kind(1, enter=lambda x, z: x - z, leave=lambda x, z: x + z),
    # A scale s `[D]`: the integers hold x / s and s W.
    "smooth": Kind(
        1,
        enter=lambda x, s: x / s,
        leave=lambda x, s: x * s,
        enter_weight=lambda w, s: w * s[:, None],
        leave_weight=lambda w, s: w / s[:, None],
    ),
    # An orthogonal matrix R `[D, D]`, as ranges of earlier versions have it: the integers hold x R and R^T W.
    "rotation": Kind(
        2,
        enter=_product,
        leave=lambda x, r: _product(x, r.T),
        enter_weight=lambda w, r: _product(r.T, w),
        leave_weight=lambda w, r: _product(r, w),
        mixes=True,
    ),
    # Signs e `[D]` and the Hadamard matrix H of order D: the integers hold x R and R^T W with R = diag(e) H.
    "hadamard": Kind(
        1,
        enter=lambda x, e: transform(x * e),
        leave=lambda x, e: transform(x, inverse=True) * e,
        enter_weight=lambda w, e: transform(w * e[:, None], axis=0),
        leave_weight=lambda w, e: transform(w, axis=0, inverse=True) * e[:, None],
        mixes=True,
    ),
}
"""Bases stand in the order in which a tensor enters them: with the first three, the integers hold ((x - z) / s) R."""


def basis_of(r: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Returns the part of a range that is its basis; empty if that is the tensor's own."""
    return {name: r[name] for name in BASES if name in r}


def linear(basis: Basis) -> dict[str, jax.Array]:
    """Returns the part of a basis that weights enter too: the matrix M, without a shift."""
    return {name: x for name, x in basis.items() if BASES[name].enter_weight is not None}


def enter(x: jax.Array, basis: Basis, weight: bool = False) -> jax.Array:
    """Brings an activation `[..., D]` into a basis, as x M, or a weight `[D, F]`, as M^-1 W. A weight vector `[D]` is
    the scale of the LayerNorm that makes the activation, and enters as the activation does."""
    for name, kind in BASES.items():
        move = kind.enter_weight if weight and x.ndim > 1 else kind.enter
        x = move(x, basis[name]) if name in basis and move is not None else x
    return x


def leave(x: jax.Array, basis: Basis, weight: bool = False) -> jax.Array:
    """Brings a tensor out of a basis: the inverse of `enter`."""
    for name, kind in reversed(BASES.items()):
        move = kind.leave_weight if weight and x.ndim > 1 else kind.leave
        x = move(x, basis[name]) if name in basis and move is not None else x
    return x
