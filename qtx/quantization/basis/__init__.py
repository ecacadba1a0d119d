"""Quantizing a tensor in another basis: what SmoothQuant and rotations do, without touching the model.

If x W = (x M) (M^-1 W), the integers may hold x M and M^-1 W instead of x and W. A range that carries M is the range of
the tensor in that basis: the tensor enters the basis, is rounded there, and leaves. In floating point nothing changes.
A range carries the array of each kind of basis under its name in `BASES`. A new kind is a file here and a line there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from qtx.quantization.basis.base import Kind
from qtx.quantization.basis.rotation import ROTATION
from qtx.quantization.basis.shift import SHIFT
from qtx.quantization.basis.smooth import SMOOTH

Basis = Mapping[str, jax.Array]
Bases = Mapping[str, Basis]
"""The basis of each site or weight by path, with a leading `[L]` in a stack of layers."""

BASES: dict[str, Kind] = {"shift": SHIFT, "smooth": SMOOTH, "rotation": ROTATION}
"""Bases stand in the order in which a tensor enters them: with all three, the integers hold ((x - z) / s) R."""


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


__all__ = ["BASES", "Bases", "Basis", "Kind", "basis_of", "enter", "leave", "linear"]
