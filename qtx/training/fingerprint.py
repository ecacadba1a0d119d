"""A checksum of arrays that does not depend on how they are split over devices, to recognize a damaged checkpoint."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def fingerprint(tree: Any) -> dict[str, int]:
    """Returns a 32-bit checksum of every array by its path: the sum of its words, each times an odd number.

    The odd numbers come from the positions. Sums modulo 2**32 do not depend on their order, so devices add up their
    parts. Any changed word changes the checksum, since odd factors are invertible; so do two exchanged words, unless
    their difference times twice their distance vanishes modulo 2**32.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = jax.device_get(_checksums([leaf for _, leaf in leaves]))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): int(total)
        for (path, _), total in zip(leaves, sums, strict=True)
    }


@jax.jit
def _checksums(arrays: list[jax.Array]) -> list[jax.Array]:
    return [_checksum(x) for x in arrays]


def _checksum(x: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis in range(x.ndim):
        stride = int(np.prod(x.shape[axis + 1 :], dtype=np.int64)) % 2**32
        place += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride)
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)
