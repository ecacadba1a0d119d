"""This module holds the one table from logical axes, which say what a dimension means, to the axes of the device mesh.

Models name the axes of their parameters (`qtx.layers`) and of a few activations (`constrain`); this table alone decides
how these are split. XLA does the rest: with Auto axes, `jax.jit` propagates the shardings of state, batch and
constrained activations through the program and inserts the collectives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import NamedSharding, PartitionSpec

from qtx.foundation.errors import lookup

MESH_AXES = ("data", "fsdp", "tensor")

# A dimension that its mesh axes do not divide is replicated instead (say, a vocabulary of 30522 on 4 tensor devices):
# the results are the same, only memory is not saved. A dimension is replicated, too, if an earlier dimension of the
# same array already uses its mesh axes.
LOGICAL_AXES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "layers": (),
    "positions": (),
}


def partition(sizes: Mapping[str, int], logical: Sequence[str | None], shape: tuple[int, ...]) -> PartitionSpec:
    """Returns the mesh axes that the dimensions of an array are split over.

    Args:
      sizes: the size of every mesh axis, e.g. `mesh.shape`.
      logical: the logical names of the array's first dimensions; a dimension with None, or no name, is replicated.
      shape: the array's shape.
    """
    taken: set[str] = set()
    axes: list[str | tuple[str, ...] | None] = []
    for name, size in zip(tuple(logical) + (None,) * (len(shape) - len(logical)), shape, strict=True):
        wanted = () if name is None else lookup(LOGICAL_AXES, "logical axis", name)
        fits = size % math.prod(sizes[axis] for axis in wanted) == 0 and not taken & set(wanted)
        axes.append(wanted if wanted and fits else None)
        taken.update(wanted if fits else ())
    return PartitionSpec(*axes)


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
    """Returns the array split over the mesh that it lies on; without a mesh, returns it unchanged.

    XLA cannot know that activations are best split by examples: if parameters and activations are both split over
    "fsdp", XLA would rather keep the parameters in place and give every device all examples.

    Args:
      x: a value within `jax.jit` that depends on arrays of a mesh.
      logical: the logical names of the array's first dimensions.
    """
    mesh = jax.typeof(x).sharding.mesh
    if set(mesh.axis_names) != set(MESH_AXES):
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, partition(mesh.shape, logical, x.shape)))
