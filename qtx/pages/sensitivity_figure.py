"""The plot of a sensitivity sweep, for the report and as a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from qtx.analysis.sensitivity import HEADER, Sweep, table_rows
from qtx.pages import page
from qtx.pages.results import METRIC_TITLES
from qtx.pages.style import MUTED, SERIES, drawing, legend

SHOWN_TENSORS = 12


def sensitivity_plot(sweep: Sweep) -> Figure:
    """Draws the tensors that cost most: the metric with each quantized alone (from floating point), or all but it."""
    rows = sweep.rows[:SHOWN_TENSORS][::-1]
    scale = 100.0 if sweep.metric == "accuracy" else 1.0
    places = range(len(rows))
    with drawing(1.1 + 0.24 * len(rows)) as figure:
        axes = figure.subplots()
        alone, without = [scale * row.alone for row in rows], [scale * row.without for row in rows]
        fp, full = scale * sweep.fp, scale * sweep.quantized
        axes.hlines(places, fp, alone, color=SERIES[0], linewidth=2)
        axes.plot(alone, places, "o", color=SERIES[0], label="quantized alone")
        axes.plot(without, places, "^", color=SERIES[1], label="all but it")
        for x, name, style in ((fp, "FP", "-"), (full, sweep.scheme.upper(), "--")):
            axes.axvline(x, color=MUTED, linewidth=1, linestyle=style)
            axes.annotate(name, (x, 1.0), xycoords=("data", "axes fraction"), color=MUTED, ha="center", va="bottom")
        axes.set_yticks(places, [row.name + (" (weight)" if row.kind == "weight" else "") for row in rows])
        axes.set(xlabel=METRIC_TITLES[sweep.metric])
        axes.grid(axis="y", visible=False)
        legend(figure, axes)
    return figure


def save_sensitivity_plot(sweep: Sweep, workdir: Path) -> Path:
    """Writes a run's sensitivity.png."""
    path = workdir / "sensitivity.png"
    sensitivity_plot(sweep).savefig(path, dpi=160, facecolor="white")
    return path


def sensitivity_section(sweeps: Mapping[str, Sweep]) -> list[str]:
    """Returns the report's section: a plot and a table per variant that was swept; empty if none was."""
    if not sweeps:
        return []
    figures = [
        page.figure(
            sensitivity_plot(sweep),
            f"sensitivity-{index}",
            f"{variant}, {sweep.scheme.upper()}",
            "Blue: the metric with this tensor alone quantized, against floating point (solid line). Orange: with "
            "every tensor quantized but this one, against all of them (dashed line). The longer a blue line, the more "
            "the tensor costs.",
        )
        for index, (variant, sweep) in enumerate(sweeps.items())
    ]
    tables = [
        page.table(
            HEADER,
            table_rows(sweep, SHOWN_TENSORS),
            f"{variant}: the tensors that cost most at {sweep.scheme.upper()}, {METRIC_TITLES[sweep.metric]} on part "
            "of the held-out data. SQNR: signal-to-quantization-noise ratio; 6 dB are one bit.",
        )
        for variant, sweep in sweeps.items()
    ]
    return [page.heading("Which tensor costs the most"), page.figures(figures), *tables]
