"""Training steps of every family with every attention variant: `python -m benchmarks.families [--output=FILE]`.

Milliseconds of forward, backward and AdamW, in turns, the megabytes that the compiled step needs beside its state and
its batch, and what each variant costs over plain softmax (the paper's Table 11: 1.009 to 1.28). `none` has no attention
at all. Last come the kinds of text encoders, with plain softmax, in the shape of `bert_tiny`: their milliseconds, and
what a floating-point operation of their products takes beside one of BERT. On one core, compiling for some minutes:

    taskset -c 0 python -m benchmarks.families --output=benchmarks/results/families.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import jax

from benchmarks.timing import count, interleaved, output_file
from benchmarks.training_step import SHAPES, WARM_UP_STEPS, Step, model, random_batch
from qtx.attention import VARIANTS
from qtx.cli.cpu_memory import keep_freed_memory
from qtx.foundation.hardware import cpu_cores
from qtx.models.flops import step_flops

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {}),
    "mpnet": ("bert", {"type_vocab_size": 0, "relative_buckets": 32}),
    "distilbert": ("bert", {"type_vocab_size": 0}),
    "electra": ("bert", {"embedding_width": 128}),
    "albert": ("bert", {"embedding_width": 128, "shared_layers": True, "activation": "gelu_new"}),
    "modern_bert": ("modern_bert", {}),
    "rotary_bert": ("rotary_bert", {}),
}
"""Kinds of text encoders: family and further options."""
OF_FAMILY = ("bert_tiny", "opt_tiny", "vit_ti16")
PLAIN = "softmax"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=OF_FAMILY, choices=SHAPES, help="default: %(default)s")
    parser.add_argument("--variants", nargs="+", default=tuple(VARIANTS), choices=VARIANTS, help="default: all")
    parser.add_argument("--repeats", type=count, default=9, help="timed steps of each (default %(default)s)")
    parser.add_argument("--output", type=output_file, help="write the numbers to this JSON file too")
    options = parser.parse_args()
    keep_freed_memory()  # as the command line does
    result: dict[str, Any] = {"device": jax.devices()[0].device_kind, "cores": cpu_cores(), "shapes": {}}
    for name in options.shapes:
        family, shape, batch_size = SHAPES[name]
        batch = random_batch(family, shape, batch_size)
        steps = {}
        for variant in dict.fromkeys((PLAIN, *options.variants)):
            steps[variant] = Step(model(family, shape | {"attention": VARIANTS[variant]}), batch)
        interleaved(steps, WARM_UP_STEPS)
        seconds = interleaved(steps, options.repeats)
        row = {
            "batch": batch_size,
            "ms": {variant: round(1e3 * value, 1) for variant, value in seconds.items()},
            "mib": {variant: round(step.temporary_bytes() / 2**20, 1) for variant, step in steps.items()},
            "overhead": {variant: round(value / seconds[PLAIN], 3) for variant, value in seconds.items()},
        }
        result["shapes"][name] = row
        print(f"{name}: {json.dumps(row)}", flush=True)
        if options.output:
            options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    result["kinds"] = kinds(options.repeats)
    print(f"kinds: {json.dumps(result['kinds'])}")
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def kinds(repeats: int) -> dict[str, dict[str, float]]:
    """Times a training step of every kind of text encoder, in turns."""
    family, shape, batch_size = SHAPES["bert_tiny"]
    batch = random_batch(family, shape, batch_size)
    models = {name: model(family, shape | more) for name, (family, more) in KINDS.items()}
    steps = {name: Step(module, batch) for name, module in models.items()}
    interleaved(steps, WARM_UP_STEPS)
    seconds = interleaved(steps, repeats)
    flops = {name: step_flops(module, batch) for name, module in models.items()}
    return {
        "ms": {name: round(1e3 * value, 1) for name, value in seconds.items()},
        "per_flop": {n: round(v / seconds["bert"] * flops["bert"] / flops[n], 3) for n, v in seconds.items()},
    }


def ratios(result: Mapping[str, Any]) -> dict[str, float]:
    """Speed of each variant relative to plain softmax, and of each kind relative to BERT."""
    of_variants = {
        f"{name}, {variant} / {PLAIN}": 1 / overhead
        for name, row in result["shapes"].items()
        for variant, overhead in row["overhead"].items()
        if variant != PLAIN
    }
    costs = result["kinds"]["per_flop"].items()
    return of_variants | {f"{kind} / bert, per operation": 1 / cost for kind, cost in costs if kind != "bert"}


if __name__ == "__main__":
    main()
