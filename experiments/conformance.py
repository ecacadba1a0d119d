"""Does qtx compute what the paper's official implementation computes?

    python -m experiments.conformance FOLDER... [--json]

FOLDER holds one model with the official code's answers on it (config.json, model.safetensors, expected.safetensors,
expected.json), or several such folders. Checked are the floating-point model (logits, loss, outlier metrics) and every
quantization scheme (logits, and the calibrated range of every quantizer). Exit code 1 if anything is out of tolerance.

A value on the tie between two integers may round either way, and later layers amplify it, so quantized models are not
expected to agree in every bit. The tolerances, from the official code's own sensitivity to rounding:

- floating point: logits to 1e-5 relative, loss to 1e-5, metrics to 0.1 %;
- every scheme: logits nearer to the official quantized ones than 0.9 times the official quantization error;
- models of one layer: no end of a quantizer's range more than 3 steps off; and over several such models together at
  least 7 in 8 schemes within max(0.03, 1.5 times rounding noise), half within 0.005, and 90 % of the range ends within
  1 % of a step.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file

from experiments.official_ranges import range_errors
from experiments.official_variants import attention_of, check_gate
from qtx.analysis.metrics import official_metrics, outlier_metrics
from qtx.families import FAMILIES, build
from qtx.foundation.config import choices
from qtx.foundation.errors import QtxError
from qtx.foundation.variants import variant_text
from qtx.interop import load
from qtx.quantization import ESTIMATORS, RECIPES, QuantizationConfig, calibrate
from qtx.quantization.estimators import RunningMinMax
from qtx.quantization.float32_only import exactly

ANSWERS = ("expected.json", "expected.safetensors")
FLOATING_POINT = "fp"
LOGITS_TOLERANCE = LOSS_TOLERANCE = 1e-5
METRICS_TOLERANCE = 1e-3
SCHEME_TOLERANCE = 0.9
RANGE_TOLERANCE = 3.0
# Over the models of one layer together: the least share of schemes or range ends that are close.
TOGETHER = "models of one layer"
LEAST_NEAR, LEAST_EXACT, LEAST_RANGES = 7 / 8, 1 / 2, 0.9
EXACT_LOGITS, EXACT_RANGE = 0.005, 0.01


@dataclasses.dataclass(frozen=True)
class Row:
    """The check of one model under one scheme; what does not apply to it is None.

    Attributes:
      logits_relative_error: |ours - official| / |official| (Euclidean).
      worst_range: the site whose calibrated range is farthest from the official one, and how far in quantization steps;
        None for the steps: only one of the two implementations quantizes it.
      shares: of schemes and range ends that are close, in the row for the models of one layer together.
      metrics_relative_error: the largest one among the model's outlier metrics, which are those in floating point; only
        the model's floating-point row is judged by it.
      loss_error: the largest absolute difference of a batch's loss.
      ok: within tolerance.
    """

    model: str
    scheme: str
    ok: bool
    logits_relative_error: float | None = None
    worst_range: tuple[str, float | None] | None = None
    metrics_relative_error: float | None = None
    loss_error: float | None = None
    shares: dict[str, float] | None = None


@dataclasses.dataclass(frozen=True)
class Closeness:
    """What one scheme of a one-layer model contributes to the bars over all of them."""

    near: bool
    exact: bool
    range_errors: list[float]


def read_batches(tensors: dict[str, np.ndarray], split: str) -> list[dict[str, Any]]:
    """The batches `<split>.<i>.{input_ids,attention_mask,labels}` as qtx's."""
    count = len({name.split(".")[1] for name in tensors if name.startswith(f"{split}.")})
    return [
        {
            "tokens": tensors[f"{split}.{i}.input_ids"],
            "mask": tensors[f"{split}.{i}.attention_mask"].astype(bool),
            "labels": tensors[f"{split}.{i}.labels"],
        }
        for i in range(count)
    ]


def mean_loss(logits: np.ndarray, labels: np.ndarray, causal: bool) -> float:
    """Mean cross-entropy over the labels that are not -100; a causal model predicts the next one."""
    if causal:
        logits, labels = logits[:, :-1], labels[:, 1:]
    logits, labels = logits[labels != -100].astype(np.float64), labels[labels != -100]
    log_normalizer = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    return float(np.mean(log_normalizer - logits[np.arange(len(labels)), labels]))


def relative_error(ours: np.ndarray, official: np.ndarray) -> float:
    """|ours - official| / |official|."""
    return float(np.linalg.norm(ours - official) / np.linalg.norm(official))


def metrics_error(ours: Any, official: Any) -> float:
    """The largest relative error among nested tables of numbers.

    Raises:
      QtxError: for a name that only one table has.
    """
    if not isinstance(official, dict):
        return abs(ours - official) / abs(official)
    if ours.keys() != official.keys():
        raise QtxError(f"only one implementation has the metrics {', '.join(sorted(ours.keys() ^ official.keys()))}")
    return max(metrics_error(ours[name], value) for name, value in official.items())


def check_model(folder: Path) -> Iterator[tuple[Row, Closeness | None]]:
    """The rows of one model: floating point, then its schemes."""
    expected = json.loads((folder / ANSWERS[0]).read_text(encoding="utf-8"))
    tensors = load_file(folder / ANSWERS[1])
    evaluation = read_batches(tensors, "eval")
    config, params = load(folder, attention_of(expected["variant"], evaluation[0]["tokens"].shape[1]))
    check_gate(expected["variant"], choices(type(config.attention))["gate"].name_of(config.attention.gate))
    module = build(config)

    forward = jax.jit(exactly(module.apply))
    logits = [np.asarray(forward({"params": params}, batch)) for batch in evaluation]
    losses = [
        mean_loss(y, batch["labels"], expected["kind"] == "opt") for y, batch in zip(logits, evaluation, strict=True)
    ]
    logits_error = max(relative_error(y, tensors[f"fp.logits.{i}"]) for i, y in enumerate(logits))
    loss_error = float(np.abs(np.subtract(losses, expected["fp_loss"])).max())
    outliers = outlier_metrics(module, params, evaluation, count_padding=True)
    metrics = metrics_error(official_metrics(module, outliers), expected["metrics"])
    ok = logits_error <= LOGITS_TOLERANCE and loss_error <= LOSS_TOLERANCE and metrics <= METRICS_TOLERANCE
    yield Row(folder.name, FLOATING_POINT, ok, logits_error, None, metrics, loss_error), None

    calibration = read_batches(tensors, "calib")
    quantized_forward = jax.jit(lambda quantized, batch: quantized.apply(batch))
    for scheme, answers in expected["schemes"].items():
        options = QuantizationConfig(
            weight_estimator=answers["weight_range"],
            activation_estimator=variant_text(ESTIMATORS, RunningMinMax(percentile=answers["activation_percentile"])),
        )
        quantizers = options.quantizers(f"w{answers['weight_bits']}a{answers['activation_bits']}")
        recipe = RECIPES[FAMILIES[expected["kind"]].recipe](config, *quantizers, count_padding=True)
        quantized = calibrate(module, params, recipe, calibration, len(calibration))
        error = relative_error(quantized_forward(quantized, evaluation[0]), tensors[f"{scheme}.logits.0"])
        ranges = range_errors(quantized, expected["kind"], answers["ranges"])
        worst = max(ranges, key=lambda r: r.largest)
        # Later layers amplify a tie: beyond one layer only a quantizer that one side lacks is certainly wrong.
        farthest = RANGE_TOLERANCE if config.num_layers == 1 else sys.float_info.max
        ok = error < SCHEME_TOLERANCE * answers["relative_error_vs_fp"] and worst.largest <= farthest
        closeness = None
        if config.num_layers == 1:
            near = error < max(0.03, 1.5 * answers["rounding_noise"])
            ends = [end for r in ranges for end in r.ends]
            closeness = Closeness(near, error < EXACT_LOGITS, ends)
        farthest_range = (worst.site, worst.largest if worst.ends else None)
        yield Row(folder.name, scheme, ok, error, farthest_range, metrics), closeness


def check_together(closeness: list[Closeness]) -> Row:
    """The bars over all schemes of several models of one layer."""
    errors = np.concatenate([c.range_errors for c in closeness])
    shares = {
        "near": float(np.mean([c.near for c in closeness])),
        "exact": float(np.mean([c.exact for c in closeness])),
        "exact_ranges": float(np.mean(errors <= EXACT_RANGE)),
    }
    ok = shares["near"] >= LEAST_NEAR and shares["exact"] >= LEAST_EXACT and shares["exact_ranges"] >= LEAST_RANGES
    return Row(TOGETHER, "all", ok, shares=shares)


def model_folders(folders: list[Path]) -> list[Path]:
    """The model folders among and directly in `folders`.

    Raises:
      QtxError: for one that is no model and has none in it.
    """
    result = []
    for folder in folders:
        candidates = [folder, *sorted(folder.iterdir())] if folder.is_dir() else []
        found = [candidate for candidate in candidates if all((candidate / name).is_file() for name in ANSWERS)]
        if not found:
            raise QtxError(f"no {' and '.join(ANSWERS)} in {folder} or in a folder in it: expected official answers")
        result += found
    return result


def check(folders: list[Path]) -> Iterator[Row]:
    """Every row, as it is ready."""
    of_one_layer: dict[str, list[Closeness]] = {}
    for folder in folders:
        for row, closeness in check_model(folder):
            yield row
            if closeness is not None:
                of_one_layer.setdefault(folder.name, []).append(closeness)
    if len(of_one_layer) > 1:
        yield check_together([c for model in of_one_layer.values() for c in model])


HEADER = f"{'model':<24} {'scheme':<16} {'logits':>8} {'metrics':>8}  worst range, in steps"


def readable(row: Row) -> str:
    """One line of the table under `HEADER`."""
    verdict = "ok" if row.ok else "OUT OF TOLERANCE"
    if row.shares is not None:
        return f"{row.model:<24} {row.scheme:<16} {', '.join(f'{k} {v:.1%}' for k, v in row.shares.items())}  {verdict}"
    cells = [f"{x:8.1e}" if x is not None else " " * 8 for x in (row.logits_relative_error, row.metrics_relative_error)]
    if row.worst_range is None:
        worst = f"loss off by {row.loss_error:.1e}"
    else:
        site, steps = row.worst_range
        worst = f"{site} {'has no counterpart' if steps is None else f'{steps:.3g}'}"
    return f"{row.model:<24} {row.scheme:<16} {' '.join(cells)}  {worst:<46} {verdict}"


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.conformance", description=__doc__.split("\n\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a model, or a folder of models")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    all_ok = True
    try:
        folders = model_folders(options.folders)
        if not options.json:
            print(HEADER)
        for row in check(folders):
            print(json.dumps(dataclasses.asdict(row)) if options.json else readable(row), flush=True)
            all_ok &= row.ok
    except QtxError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    return 0 if all_ok else 1


if __name__ == "__main__":
    sys.exit(main())
