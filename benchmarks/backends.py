"""Attention in training steps, over its length: `python -m benchmarks.backends [--lengths 512 1024] [--output=FILE]`.

Milliseconds of whole training steps, dropout included, of a BERT (all keys seen) and an OPT (causal) of 4 layers of
width 256, with as many tokens at each length, by each way to compute attention (`config.model.attention_backend`), and
how many times as fast as the naive way each is. On one core:

    taskset -c 0 python -m benchmarks.backends --output=benchmarks/results/backends.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import jax

from benchmarks.timing import count, interleaved, output_file
from benchmarks.training_step import TINY, WARM_UP_STEPS, Step, model, random_batch
from qtx.attention import VARIANTS
from qtx.attention.fused import BACKENDS, NAIVE
from qtx.attention.normalizers import SoftmaxLike
from qtx.cli.cpu_memory import keep_freed_memory
from qtx.foundation.hardware import cpu_cores

FUSED = tuple(name for name, variant in VARIANTS.items() if isinstance(variant.normalizer, SoftmaxLike))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=("bert", "opt"), choices=("bert", "opt"), help="(both)")
    parser.add_argument("--lengths", nargs="+", type=count, default=[512, 1024, 2048], help="T (%(default)s)")
    parser.add_argument("--tokens", type=count, default=4096, help="of a batch (default %(default)s)")
    parser.add_argument("--variants", nargs="+", default=("softmax", "clipped_softmax"), choices=FUSED)
    parser.add_argument("--repeats", type=count, default=5, help="timed steps of each (default %(default)s)")
    parser.add_argument("--output", type=output_file, help="write the numbers to this JSON file too")
    options = parser.parse_args()
    keep_freed_memory()  # as the command line does
    result: dict[str, Any] = {"device": jax.devices()[0].device_kind, "cores": cpu_cores(), "ms": {}, "speedup": {}}
    for family in options.families:
        for length in options.lengths:
            shape = TINY | {"max_length": length}
            batch = random_batch(family, shape, max(1, options.tokens // length))
            steps = {
                f"{variant} {backend}": Step(
                    model(family, shape | {"attention": VARIANTS[variant], "attention_backend": backend}), batch
                )
                for variant in options.variants
                for backend in (NAIVE, *BACKENDS)
            }
            interleaved(steps, WARM_UP_STEPS)
            seconds = interleaved(steps, options.repeats)
            name = f"{family}, T {length}"
            result["ms"][name] = {kind: round(1e3 * value, 1) for kind, value in seconds.items()}
            result["speedup"][name] = {
                kind: round(seconds[f"{kind.split()[0]} {NAIVE}"] / value, 3)
                for kind, value in seconds.items()
                if not kind.endswith(NAIVE)
            }
            print(f"{name}: ms {result['ms'][name]}, speed-up {result['speedup'][name]}", flush=True)
            if options.output:
                options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def ratios(result: Mapping[str, Any]) -> dict[str, float]:
    """How many times as fast as naive each way is."""
    return {f"{name}, {kind}": value for name, row in result["speedup"].items() for kind, value in row.items()}


if __name__ == "__main__":
    main()
