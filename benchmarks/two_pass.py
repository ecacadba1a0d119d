"""The first sweep of attention by blocks, the logarithm of a row's sum of exponentials, by a running maximum and by
the two-pass softmax's pairs: `python -m benchmarks.two_pass`.

512 queries, 4,096 keys in blocks of 512, D 64, with the product that makes the scores. `pairs per place` keeps a sum
for each place within a block and adds these last; `pairs per row` adds up each block.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks.timing import interleaved
from qtx.attention.fused.two_pass import NONE, Scaled, add, exponential, total

QUERIES, KEYS, BLOCK, REPEATS = 512, 4096, 512, 31


def sweep(start: jax.Array | Scaled, step: Callable, finish: Callable, query: jax.Array, key: jax.Array) -> jax.Array:
    """finish of what `step(carry, scores)` makes of all blocks."""

    def of_block(j, carry):
        return step(carry, query @ jax.lax.dynamic_slice_in_dim(key, j * BLOCK, BLOCK).T)

    return finish(jax.lax.fori_loop(0, KEYS // BLOCK, of_block, start))


def running(carry: Scaled, scores: jax.Array) -> Scaled:
    """A sum, and in place of the exponent the largest score so far."""
    larger = jnp.maximum(carry.exponent, scores.max(axis=-1, keepdims=True))
    more = jnp.exp(scores - larger).sum(axis=-1, keepdims=True)
    return Scaled(carry.mantissa * jnp.exp(carry.exponent - larger) + more, larger)


def logarithm(sums: Scaled) -> jax.Array:
    """Of the rows' totals."""
    mantissa, exponent = total(sums)
    return jnp.log(mantissa) + exponent * math.log(2)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    query, key = (jax.random.normal(jax.random.key(i), (size, 64)) / 8 for i, size in enumerate((QUERIES, KEYS)))

    def nothing(width, exponent):
        return Scaled(jnp.zeros((QUERIES, width)), jnp.full((QUERIES, width), exponent))

    kinds = {
        "running maximum": (nothing(1, -1e30), running, lambda c: jnp.log(c.mantissa) + c.exponent),
        "pairs per row": (nothing(1, NONE), lambda c, s: add(c, total(exponential(s))), logarithm),
        "pairs per place": (nothing(BLOCK, NONE), lambda c, s: add(c, exponential(s)), logarithm),
    }
    functions = {
        name: functools.partial(jax.jit(functools.partial(sweep, *kind)), query, key) for name, kind in kinds.items()
    }
    first = functions["running maximum"]()
    seconds = interleaved(functions, REPEATS)
    for name, value in seconds.items():
        error = float(jnp.abs(functions[name]() - first).max())
        ratio = value / seconds["running maximum"]
        print(f"{name:<16} {1e3 * value:7.2f} ms  {ratio:5.2f} x  (difference {error:.1g})")


if __name__ == "__main__":
    main()
