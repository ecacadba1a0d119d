"""Norms, and the dense layers that multiply a norm's output: a basis of single channels costs next to nothing there."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qtx.anatomy import Anatomy, Origin
from qtx.parts import Part


def layers_fed_by_norms(anatomy: Anatomy) -> dict[Origin, tuple[str, ...]]:
    """Finds the dense layers of each stack that multiply the output of a norm of the stack, grouped by the norm; the
    predictors of gates are left out."""
    found: dict[Origin, tuple[str, ...]] = {}
    for layer, (origin, *_) in sorted(anatomy.operands.of.items()):
        kernel = anatomy.kernel_of(layer)
        if kernel is None or kernel.stack is None or kernel.part is Part.GATE or origin is None or origin.last:
            continue
        norm = anatomy.sites.get(origin.later or origin.site or "")
        if norm is not None and norm.part is Part.NORM and norm.stack == kernel.stack:
            found[origin] = (*found.get(origin, ()), layer)
    return found


def at_norms(origin: Origin, values: jax.Array, neutral: float) -> dict[str, jax.Array]:
    """Returns the values at each norm of an origin, by the norm's path.

    Args:
      origin: of what the layers multiply.
      values: of the layers that multiply, `[L, D]`.
      neutral: stands where no layer of the stack multiplies.
    """
    assert origin.site is not None
    if origin.later is None:
        return {origin.site: values}
    # Each layer reads the norm of the layer before; the first one, what enters the stack.
    return {origin.site: values[0], origin.later: jnp.concatenate([values[1:], jnp.full_like(values[:1], neutral)])}
