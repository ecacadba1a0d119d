"""Attention alone, over its length: `python -m benchmarks.attention [--lengths 512 1024 2048] [--output=FILE]`.

Forward and backward of normalizer(q k) v, `[B, T, H, D]` with B T constant, D 64, by each backend of
`qtx.attention.fused`: milliseconds, and the megabytes that the compiled program needs beside its arguments. Beside them
JAX's own `jax.nn.dot_product_attention`, by XLA and, on a GPU, by cuDNN; and, where torch is installed, PyTorch's
`scaled_dot_product_attention`, and the clipped softmax in its own operations: its `flex_attention`, which could fuse
that formula, has no backward pass on a CPU (torch 2.13). With `--patterns`, what skipping the clipped softmax's dead
blocks gives, for three kinds of scores: independent; of heads that do nothing, nearly all of whose attention is on one
key; and a band around the diagonal. No dropout; causal with `--causal`. On one core:

    taskset -c 0 python -m benchmarks.attention --patterns --output=benchmarks/results/attention.json
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import count, interleaved, output_file
from qtx.attention import VARIANTS
from qtx.attention.fused import BACKENDS, case_of
from qtx.attention.fused.blockwise import Blocks, FusedSpec, attend
from qtx.attention.normalizers import Normalizer, Rows, SoftmaxLike
from qtx.cli.cpu_memory import keep_freed_memory
from qtx.foundation.hardware import cpu_cores
from qtx.masks import Mask

HEAD_DIM = 64
NAMES = ("softmax", "clipped_softmax", "sink")
PATTERNS = ("independent", "no-op", "band")
Attention = Callable[..., Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=count, default=[128, 512, 1024, 2048], help="T (%(default)s)")
    parser.add_argument("--tokens", type=count, default=2048, help="B T (default %(default)s)")
    parser.add_argument("--heads", type=count, default=6, help="H; D is 64 (default %(default)s)")
    parser.add_argument("--variants", nargs="+", default=NAMES, choices=VARIANTS, help="default %(default)s")
    parser.add_argument("--causal", action="store_true", help="a query sees what is before it")
    parser.add_argument("--patterns", action="store_true", help="dead blocks too, at the greatest length")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="default %(default)s")
    parser.add_argument("--repeats", type=count, default=9, help="timed calls of each (default %(default)s)")
    parser.add_argument("--output", type=output_file, help="write the numbers to this JSON file too")
    options = parser.parse_args()
    keep_freed_memory()  # as the command line does
    shape = {"tokens": options.tokens, "heads": options.heads, "head_dim": HEAD_DIM, "causal": options.causal}
    device = {"device": jax.devices()[0].device_kind, "cores": cpu_cores(), "dtype": options.dtype}
    result: dict[str, Any] = {**device, **shape, "ms": {}, "mib": {}, "speedup": {}}

    def write():
        if options.output:
            options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    for length in options.lengths:
        values = inputs(options, length)
        functions, result["mib"][length] = {}, {}
        for name, attention in kinds(options.variants, length, options.heads, options.causal).items():
            step = forward_and_backward(attention)
            try:
                compiled = step.lower(*values).compile()
                jax.block_until_ready(compiled(*values))
            except (RuntimeError, ValueError, NotImplementedError) as error:  # what this device cannot do, or hold
                print(f"T {length}, {name}: left out, {str(error).splitlines()[0]}", flush=True)
                continue
            memory: Any = compiled.memory_analysis()
            result["mib"][length][name] = round(memory.temp_size_in_bytes / 2**20, 1)
            functions[name] = functools.partial(compiled, *values)
        functions |= of_torch(values, options.causal)
        ms = timed(functions, options.repeats)
        result["ms"][length] = ms
        result["speedup"][length] = {
            name: round(ms[f"{name.split()[0]} naive"] / value, 2)
            for name, value in ms.items()
            if f"{name.split()[0]} naive" in ms and not name.endswith("naive")
        }
        print(f"T {length}: ms {json.dumps(ms)}, speed-up {json.dumps(result['speedup'][length])}", flush=True)
        write()
    if options.patterns:
        result["dead_blocks"] = dead_blocks(options, max(options.lengths))
        print(json.dumps(result["dead_blocks"], indent=1))
        write()


def inputs(options: Any, length: int, pattern: str = "independent") -> list[jax.Array]:
    """Query, key, value and the gradient of the context, `[B, T, H, D]`."""
    size = (max(1, options.tokens // length), length, options.heads, HEAD_DIM)
    rng = np.random.default_rng(0)
    query, key, value, gradient = (rng.normal(size=size) for _ in range(4))
    if pattern == "no-op":
        query, key[:, 0] = query + 1, 2.0
    elif pattern == "band":
        angles = np.arange(length)[:, None] / 16 * 2.0 ** -np.arange(HEAD_DIM // 4)
        place = np.tile(np.concatenate([np.sin(angles), np.cos(angles)], axis=1), 2)[:, None]
        query, key = 0.1 * query + 3.5 * place, 0.1 * key + 3.5 * place
    return [jnp.asarray(x, options.dtype) for x in (query / HEAD_DIM**0.5, key, value, gradient)]


def kinds(variants: Any, length: int, heads: int, causal: bool) -> dict[str, Attention]:
    """Name -> (query, key, value) -> context, all `[B, T, H, D]`; the query is scaled."""
    found: dict[str, Attention] = {}
    rows = Rows(Mask(length, causal))
    for name in variants:
        normalizer = VARIANTS[name].normalizer.trained_at(length)
        parameters = initial(normalizer, heads)
        found[f"{name} naive"] = functools.partial(naive, normalizer, parameters, rows)
        for backend in BACKENDS:
            found[f"{name} {backend}"] = functools.partial(fused, backend, normalizer, parameters, rows)
    library = functools.partial(jax.nn.dot_product_attention, is_causal=causal, scale=1.0)
    found["softmax jax_xla"] = functools.partial(library, implementation="xla")
    if jax.default_backend() == "gpu":
        found["softmax jax_cudnn"] = functools.partial(library, implementation="cudnn")
    return found


def initial(normalizer: Normalizer, heads: int) -> dict[str, jax.Array]:
    """What its parameters start at."""
    wanted = normalizer.parameters(heads).items()
    return {name: jnp.full(p.shape, p.start or 0.0, jnp.float32) for name, p in wanted}


def naive(normalizer, parameters, rows, query, key, value):
    """As `qtx.attention.MultiHeadAttention` has it between its projections, scores and probabilities in memory."""
    scores = jnp.einsum("bthd,bshd->bhts", query, key, preferred_element_type=jnp.float32)
    probs = normalizer(parameters, scores, rows).astype(value.dtype)
    return jnp.einsum("bhts,bshd->bthd", probs, value)


def fused(backend, normalizer, parameters, rows, query, key, value):
    """By a backend."""
    case = case_of(normalizer, rows, query, 0.0)
    return BACKENDS[backend](case, parameters, query, key, value, rows, None)


def forward_and_backward(attention: Attention) -> Any:
    """(query, key, value, gradient of the context) -> the context, and the gradients of the three."""

    @jax.jit
    def step(query, key, value, gradient):
        context, backward = jax.vjp(attention, query, key, value)
        return context, backward(gradient)

    return step


def timed(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Milliseconds of each."""
    return {name: round(1e3 * value, 2) for name, value in interleaved(functions, repeats).items()}


def dead_blocks(options: Any, length: int) -> dict[str, Any]:
    """Of the clipped softmax: milliseconds without and with skipping, and the share of blocks that are dead."""
    normalizer: Any = VARIANTS["clipped_softmax"].normalizer.trained_at(length)
    assert isinstance(normalizer, SoftmaxLike)
    rows, found = Rows(Mask(length, options.causal)), {}
    for pattern in PATTERNS:
        values = inputs(options, length, pattern)
        functions = {}
        for skips in (False, True):
            kernel = FusedSpec(normalizer, Blocks(512, 512, 1, 1, skips))
            attention = functools.partial(attend, kernel, {}, rows=rows)
            functions[f"skips {skips}"] = functools.partial(forward_and_backward(attention), *values)
        ms = timed(functions, options.repeats)
        scores = jnp.einsum("bthd,bshd->bhts", *values[:2])
        probs = np.asarray(normalizer({}, scores, rows)) > 0
        size = math.gcd(512, length)
        blocks = probs.reshape(*probs.shape[:2], length // size, size, length // size, size).any(axis=(3, 5))
        speedup = round(ms["skips False"] / ms["skips True"], 2)
        found[pattern] = {**ms, "speedup": speedup, "dead": round(float((~blocks).mean()), 3)}
    return found


def of_torch(values: list[jax.Array], causal: bool) -> dict[str, Callable[[], Any]]:
    """PyTorch's, on as many cores; none without torch, or on another device than a CPU."""
    if importlib.util.find_spec("torch") is None or jax.default_backend() != "cpu":
        return {}
    import torch

    torch.set_num_threads(cpu_cores())
    dtype = torch.bfloat16 if values[0].dtype == jnp.bfloat16 else torch.float32
    tensors = [torch.from_numpy(np.array(x, np.float32)).to(dtype).transpose(1, 2).contiguous() for x in values]
    query, key, value = (x.clone().requires_grad_() for x in tensors[:3])
    length = query.shape[2]
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)

    def plain():
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=1.0)

    def clipped():
        scores = query @ key.transpose(-1, -2)
        probs = (scores.masked_fill(hidden, -torch.inf) if causal else scores).softmax(-1)
        gamma = -4 / length
        return ((1 - gamma) * probs + gamma).clamp(0, 1) @ value

    def with_gradients(attention):
        return lambda: torch.autograd.grad(attention(), (query, key, value), tensors[3])

    return {"softmax torch_sdpa": with_gradients(plain), "clipped_softmax torch_naive": with_gradients(clipped)}


def ratios(result: Mapping[str, Any]) -> dict[str, float]:
    """How many times as fast as naive, and as PyTorch's, blocks are; and what skipping dead ones gives."""
    found = {
        f"T {length}, {name} / naive": value
        for length, row in result["speedup"].items()
        for name, value in row.items()
        if name.endswith("blockwise")
    }
    for length, ms in result["ms"].items():
        for name in (name for name in ms if " torch" in name):
            ours = f"{name.split()[0]} blockwise"
            found[f"T {length}, {ours} / {name.split()[1]}"] = ms[name] / ms[ours]
    dead = result.get("dead_blocks", {})
    return found | {f"dead blocks, {pattern}": row["speedup"] for pattern, row in dead.items()}


if __name__ == "__main__":
    main()
