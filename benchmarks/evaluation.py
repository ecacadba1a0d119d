"""What simulated quantization costs in time: evaluation against floating point, and calibration per range estimator.

    python -m benchmarks.evaluation [--output=FILE]

A BERT of 4 layers, width 256, T 128, batch 32, random weights; every function compiled before it is timed, all timed in
turns. Evaluation: logits and loss of one batch, at W8A8. Calibration: the step that sees one batch, so its ratio to a
floating-point batch is that of 16 to 16.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from benchmarks.timing import count, interleaved, output_file
from qtx.analysis.capture import FloatingPoint
from qtx.anatomy import read
from qtx.families import build
from qtx.losses import CrossEntropy
from qtx.masks import without_full_masks
from qtx.models import BertConfig
from qtx.pipeline.measure import model_sums
from qtx.quantization import QuantizationConfig, calibrate
from qtx.quantization.calibration import calibration_step, initial_state, tables_of
from qtx.quantization.methods import Problem

CONFIG = BertConfig(num_layers=4, width=256, num_heads=4, mlp_width=1024, vocab_size=4096, max_length=128)
BATCH, LENGTH = 32, 128
CALIBRATIONS: dict[str, dict[str, Any]] = {
    "running min-max": {},
    "percentile 99.99": {"activation_estimator": "running_minmax,percentile=99.99"},
    "groups (PEG)": {"activation_granularity": "group"},
    "mse, golden section": {"activation_estimator": "mse,search=golden"},
    "mse, grid of 100": {"activation_estimator": "mse"},
}


def make_batch(seed: int) -> dict[str, np.ndarray]:
    """A random masked-language-modelling batch; 15 % of the positions are predicted."""
    rng = np.random.default_rng(seed)
    positions = np.sort(rng.permuted(np.tile(np.arange(LENGTH), (BATCH, 1)), axis=1)[:, :19], axis=1)
    return {
        "tokens": rng.integers(0, CONFIG.vocab_size or 0, (BATCH, LENGTH)),
        "positions": positions,
        "labels": rng.integers(0, CONFIG.vocab_size or 0, positions.shape),
        "weights": np.ones(positions.shape, np.float32),
    }


def measure(repeats: int, calibrations: list[str]) -> dict[str, float]:
    """Name to seconds a batch."""
    module, batch = build(CONFIG), make_batch(0)
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), batch)["params"])
    recipe = QuantizationConfig().make_recipe("w8a8", CONFIG)
    models = {
        "FP evaluation": FloatingPoint(module, params),
        "W8A8 evaluation": calibrate(module, params, recipe, [batch], 1),
    }
    functions = {
        name: (lambda model=model: model_sums(CrossEntropy(), 1, model, batch)) for name, model in models.items()
    }
    for name in calibrations:
        recipe = QuantizationConfig(**CALIBRATIONS[name]).make_recipe("w8a8", CONFIG)
        problem = Problem(read(module, batch), module, params, recipe, [batch])
        plan, state = initial_state(problem.anatomy, recipe, problem.ranges, {})
        arguments = module, plan, tables_of(problem.plan), params, state, without_full_masks(batch)
        functions[f"calibration, {name}"] = lambda arguments=arguments: calibration_step(*arguments)
    return interleaved(functions, repeats)


def main(arguments: list[str] | None = None) -> int:
    """Prints a table of seconds and ratios to the FP evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=count, default=7, help="timed calls of each (default 7); the median counts")
    parser.add_argument("--output", type=output_file, help="write the numbers as JSON")
    options = parser.parse_args(arguments)
    seconds = measure(options.repeats, list(CALIBRATIONS))
    result = {
        name: {"seconds": round(value, 4), "ratio": round(value / seconds["FP evaluation"], 2)}
        for name, value in seconds.items()
    }
    for name, row in result.items():
        print(f"{name:<34} {row['seconds']:>8.3f} s/batch  {row['ratio']:>6.2f} x FP")
    if options.output:
        device = jax.devices()[0].device_kind
        options.output.write_text(json.dumps({"device": device, "batch": BATCH, "results": result}, indent=1) + "\n")
    return 0


def ratios(result: Mapping[str, Any]) -> dict[str, float]:
    """Floating-point passes in the time of one of each."""
    return {f"FP / {name}": 1 / row["ratio"] for name, row in result["results"].items() if name != "FP evaluation"}


if __name__ == "__main__":
    sys.exit(main())
