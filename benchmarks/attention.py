"""Attention alone, over its length: `python -m benchmarks.attention [--dtype=bfloat16] [--output=FILE]`.

Forward and backward of softmax(q k) v and its rivals, `[B, T, H, D]` with B T constant: every normalizer as the models
compute it, with the scores in memory; and, beside them, JAX's own `jax.nn.dot_product_attention`, by XLA and, on a GPU,
by cuDNN, which never stores them and knows the softmax alone. Scores of 1 standard deviation, no dropout, causal with
`--causal`.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.timing import interleaved
from qtx.attention.normalizers import NORMALIZERS, Normalizer, Rows
from qtx.masks import Mask

OPTIONS: dict[str, dict[str, Any]] = {"clipped_softmax": {"alpha": 4.0}}
"""Of normalizers that do not begin as what they are for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 512], help="T (default %(default)s)")
    parser.add_argument("--tokens", type=int, default=4096, help="B T (default %(default)s)")
    parser.add_argument("--heads", type=int, default=12, help="H; D is 64 (default %(default)s)")
    parser.add_argument("--causal", action="store_true", help="a query sees what is before it")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="default %(default)s")
    parser.add_argument("--repeats", type=int, default=15, help="timed calls of each (default %(default)s)")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file too")
    options = parser.parse_args()
    if min(options.tokens, options.heads, options.repeats, *options.lengths) < 1:
        parser.error("--lengths, --tokens, --heads and --repeats are counts: expected 1 or more")
    shape = {"tokens": options.tokens, "heads": options.heads, "head_dim": 64, "causal": options.causal}
    result = {"device": jax.devices()[0].device_kind, "dtype": options.dtype, **shape, "ms": {}}
    for length in options.lengths:
        size = (max(1, options.tokens // length), length, options.heads, 64)
        values = [jax.random.normal(jax.random.key(i), size, jnp.dtype(options.dtype)) for i in range(4)]
        functions = {}
        for name, attend in kinds(length, options.heads, options.causal).items():
            step = functools.partial(forward_and_backward(attend), *values)
            try:
                jax.block_until_ready(step())
            except (RuntimeError, ValueError, NotImplementedError) as error:  # what this device cannot do, or hold
                print(f"T {length}, {name}: left out, {str(error).splitlines()[0]}", flush=True)
                continue
            functions[name] = step
        seconds = interleaved(functions, options.repeats)
        result["ms"][length] = {name: round(1e3 * value, 3) for name, value in seconds.items()}
        print(f"T {length}: {json.dumps(result['ms'][length])}", flush=True)
        if options.output:
            options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def kinds(length: int, heads: int, causal: bool) -> dict[str, Callable[..., jax.Array]]:
    """Name -> (query, key, value) -> context, all `[B, T, H, D]`."""
    found = {name: of_scores(cls(**OPTIONS.get(name, {})), length, heads, causal) for name, cls in NORMALIZERS.items()}
    library = functools.partial(jax.nn.dot_product_attention, is_causal=causal)
    found["jax_xla"] = functools.partial(library, implementation="xla")
    if jax.default_backend() == "gpu":
        found["jax_cudnn"] = functools.partial(library, implementation="cudnn")
    return found


def of_scores(normalizer: Normalizer, length: int, heads: int, causal: bool) -> Callable[..., jax.Array]:
    """Attention as `qtx.attention.MultiHeadAttention` has it, between its projections."""
    parameters = {
        name: jnp.full(wanted.shape, wanted.start or 0.0, jnp.float32)
        for name, wanted in normalizer.parameters(heads).items()
    }
    rows = Rows(Mask(length, causal))

    def attend(query, key, value):
        scores = jnp.einsum("bthd,bshd->bhts", query * 0.125, key, preferred_element_type=jnp.float32)
        probs = normalizer(parameters, scores, rows).astype(value.dtype)
        return jnp.einsum("bhts,bshd->bthd", probs, value)

    return attend


def forward_and_backward(attend: Callable[..., jax.Array]) -> Callable[..., Any]:
    """(query, key, value, gradient of the context) -> the context, and the gradients of the three."""

    @jax.jit
    def step(query, key, value, gradient):
        context, backward = jax.vjp(attend, query, key, value)
        return context, backward(gradient)

    return step


if __name__ == "__main__":
    main()
