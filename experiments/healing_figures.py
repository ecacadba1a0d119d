"""Figures of a healing, from what `qtx quantize` measured of both runs: how outliers grow over the layers, where the
head that parks most attention parks it, and the ladder of bits.

    qtx quantize --workdir=runs/minilm-2l --config.quantization.schemes="('w8a8','w7a7','w6a6','w5a5')" \\
      --config.quantization.weight_estimator=mse
    qtx quantize --workdir=runs/healed --config.quantization.schemes="('w8a8','w7a7','w6a6','w5a5')"
    python -m experiments.healing_figures runs/minilm-2l runs/healed --out docs/healing
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from experiments.bad_input import told_in_a_line
from qtx.analysis import Analysis, load_analysis
from qtx.foundation.errors import QtxError
from qtx.pages import plots
from qtx.pages.style import SERIES
from qtx.pipeline.measurements import read_measurements
from qtx.training import RunFolder

NAMES = ("as it came", "healed")
OUTPUTS = "layers/mlp/out"
ESTIMATOR = "mse"


def ladder(folder: Path) -> dict[str, list[float]]:
    """Fidelity in floating point and at each scheme, most bits first, with the weights' ranges by MSE."""
    measured = read_measurements(RunFolder(folder))["measurements"]
    if not measured:
        raise QtxError(f"{folder} has no measurements: run `qtx quantize --workdir={folder}` first")
    if any("fidelity" not in one["values"] for one in measured):
        raise QtxError(f"{folder} is not measured by fidelity: give the runs of an original and of what it became")
    found = {
        one["scheme"]: [one["values"]["fidelity"]]
        for one in measured
        if one.get("method") is None or (one["method"] == "static" and one["options"]["weight_estimator"] == ESTIMATOR)
    }
    # Floating point, of no bits, comes first.
    ordered = sorted(found, key=lambda scheme: [-int(bits) for bits in re.findall(r"\d+", scheme)])
    return {scheme.upper(): found[scheme] for scheme in ordered}


def figures(
    analyses: Mapping[str, Analysis], ladders: Mapping[str, Mapping[str, Sequence[float]]]
) -> dict[str, Figure]:
    """File name to figure."""
    growth = {name: [analysis.inf_norms[OUTPUTS]] for name, analysis in analyses.items()}
    drawn = {
        "growth.png": plots.over_layers(growth, "largest feed-forward output"),
        "ladder.png": plots.bit_ladder(ladders, "fidelity"),
    }
    for index, (name, analysis) in enumerate(analyses.items()):
        head = analysis.maps["sink"]
        title = f"{name}: layer {head.layer + 1}, head {head.head + 1}"
        drawn[f"head_{index}.png"] = plots.attention_map(head, title, SERIES[index])
    return drawn


@told_in_a_line("healing_figures")
def main(arguments: Sequence[str]) -> int:
    """Writes the figures; 2 for bad input."""
    parser = argparse.ArgumentParser("experiments.healing_figures", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="the original's folder and the healed one's")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write the figures")
    options = parser.parse_args(arguments)
    analyses = {name: load_analysis(folder / "analysis.npz") for name, folder in zip(NAMES, options.runs, strict=True)}
    ladders = {name: ladder(folder) for name, folder in zip(NAMES, options.runs, strict=True)}
    options.out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures(analyses, ladders).items():
        figure.savefig(options.out / name, dpi=160, facecolor="white")
        print(options.out / name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
