"""Training steps with quantization noise beside steps without: `python -m benchmarks.noise [--output=FILE]`.

Milliseconds of forward, backward and AdamW, in turns, of models as `benchmarks.training_step` has them, and with half
of every batch computed in W8A8 by the family's recipe (`qat.noise`), as `qtx heal` trains. On one core:

    taskset -c 0 python -m benchmarks.noise --output=benchmarks/results/noise.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import jax

from benchmarks.timing import count, interleaved, output_file
from benchmarks.training_step import SHAPES, WARM_UP_STEPS, Step, model, random_batch
from qtx.cli.cpu_memory import keep_freed_memory
from qtx.families import FAMILIES
from qtx.foundation.hardware import cpu_cores
from qtx.quantization import QuantizationConfig
from qtx.quantization.qat.noise import make_noisy_model

OF_NOISE = ("bert_tiny", "opt_tiny")
PLAIN, NOISY = "plain", "noise"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=OF_NOISE, choices=SHAPES, help="default: %(default)s")
    parser.add_argument("--repeats", type=count, default=9, help="timed steps of each (default %(default)s)")
    parser.add_argument("--output", type=output_file, help="write the numbers to this JSON file too")
    options = parser.parse_args()
    keep_freed_memory()  # as the command line does
    result: dict[str, Any] = {"device": jax.devices()[0].device_kind, "cores": cpu_cores(), "shapes": {}}
    for name in options.shapes:
        family, shape, batch_size = SHAPES[name]
        batch, module = random_batch(family, shape, batch_size), model(family, shape)
        recipe = QuantizationConfig(recipe=FAMILIES[family].recipe).make_recipe("w8a8", module.config)
        steps = {PLAIN: Step(module, batch), NOISY: Step(make_noisy_model(module, recipe, batch), batch)}
        interleaved(steps, WARM_UP_STEPS)
        seconds = interleaved(steps, options.repeats)
        row: dict[str, Any] = {"batch": batch_size, "ms": {kind: round(1e3 * v, 1) for kind, v in seconds.items()}}
        row["overhead"] = round(seconds[NOISY] / seconds[PLAIN], 3)
        result["shapes"][name] = row
        print(f"{name}: {json.dumps(row)}", flush=True)
        if options.output:
            options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def ratios(result: Mapping[str, Any]) -> dict[str, float]:
    """How fast a step with noise is, as a share of one without."""
    return {shape: 1 / row["overhead"] for shape, row in result["shapes"].items()}


if __name__ == "__main__":
    main()
