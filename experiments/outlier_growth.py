"""How outliers grow while models train: the largest activation and the kurtosis, step by step.

    python -m experiments.outlier_growth experiments/results/bert_books/*.metrics.jsonl --out docs/effect

Each file is a run's `metrics.jsonl`, called as its curve is to be, up to the first dot.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.bad_input import told_in_a_line
from qtx.foundation.errors import QtxError
from qtx.pages import plots

MEASURES = {"max_inf_norm": "largest activation (infinity norm)", "avg_kurtosis": "kurtosis"}


def growth(file: Path) -> dict[str, list[tuple[int, float]]]:
    """Measure to (step, value), as training monitored them."""
    try:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        monitored = [line for line in lines if line["split"] == "monitor"]
        found = {measure: [(line["step"], float(line[measure])) for line in monitored] for measure in MEASURES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise QtxError(f"{file} is not the metrics.jsonl of a run: {error!r}") from error
    if not monitored:
        raise QtxError(f"{file} has no outliers: train with --config.training.outliers_every")
    return found


@told_in_a_line("outlier_growth")
def main(arguments: Sequence[str]) -> int:
    """Writes the figures; 2 for bad input."""
    parser = argparse.ArgumentParser("experiments.outlier_growth", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="METRICS", help="a metrics.jsonl, named as its curve")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write the figures")
    options = parser.parse_args(arguments)
    curves = {file.name.partition(".")[0]: growth(file) for file in options.files}
    if len(curves) < len(options.files):
        raise QtxError("two of the files have the same name, which is their curve's: name each as its curve is to be")
    options.out.mkdir(parents=True, exist_ok=True)
    for measure, label in MEASURES.items():
        figure = plots.over_training({name: [found[measure]] for name, found in curves.items()}, label)
        figure.savefig(options.out / f"{measure}.png", dpi=160, facecolor="white")
        print(options.out / f"{measure}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
