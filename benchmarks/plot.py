"""One figure of all benchmarks' results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from qtx.pages.style import MUTED, drawing, series_style

PANEL = (5.6, 3.6)  # inches
COLUMNS = 2


def plot(results: Mapping[str, Any], file: Path) -> Path:
    """Draws those that there are, as PNG, and returns the file."""
    there = [(name, draw) for name, draw in PANELS.items() if name in results]
    rows = max(1, -(-len(there) // COLUMNS))
    with drawing(PANEL[1] * rows, PANEL[0] * COLUMNS) as figure:
        FigureCanvasAgg(figure)
        for i, (name, draw) in enumerate(there):
            draw(figure.add_subplot(rows, COLUMNS, i + 1), results[name])
        figure.savefig(file, dpi=120, facecolor="white")
    return file


def attention(axes: Axes, result: Mapping[str, Any]) -> None:
    lengths = [int(length) for length in result["ms"]]
    names = [name for name in result["speedup"][str(lengths[0])] if "jax" not in name and "torch_naive" not in name]
    for i, name in enumerate(names):
        values = [result["speedup"][str(length)].get(name) for length in lengths]
        axes.plot(lengths, values, label=name.replace("_", " "), **series_style(i))
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.set_xlabel("tokens T")
    which = "Causal attention" if result["causal"] else "Attention"
    finish(axes, f"{which}: times as fast as naive")


def backends(axes: Axes, result: Mapping[str, Any]) -> None:
    bars(axes, result["speedup"], "Training step by blocks: times as fast as naive")


def families(axes: Axes, result: Mapping[str, Any]) -> None:
    rows = {shape: row["overhead"] for shape, row in result["shapes"].items()}
    bars(axes, rows, "Training step: time over softmax's")


def noise(axes: Axes, result: Mapping[str, Any]) -> None:
    bars(axes, {"": {name: row["overhead"] for name, row in result["shapes"].items()}}, "With noise: time over without")


def training_step(axes: Axes, result: Mapping[str, Any]) -> None:
    rows = {shape: row["speedup"] for shape, row in result["shapes"].items()}
    bars(axes, rows, "Training step of qtx: times as fast as PyTorch's")


def evaluation(axes: Axes, result: Mapping[str, Any]) -> None:
    ratios = {name.removeprefix("calibration, "): row["ratio"] for name, row in result["results"].items()}
    bars(axes, {"": ratios}, "Evaluation, calibration: time over an FP pass")


def integer_matmul(axes: Axes, result: Mapping[str, Any]) -> None:
    times = result["encoder_ms"]
    rows = {"encoder": times["fp32"] / times["integer"], "encoder, linear layers": times["fp32"] / times["linear"]}
    products = {name: row["fp32"] / row["int8"] for name, row in result["products_ms"].items()}
    bars(axes, {"": rows | products}, f"Integers, width {result['shape']['width']}: times as fast as FP32")


def onnx_graphs(axes: Axes, result: Mapping[str, Any]) -> None:
    rows = {
        f"{model}, {size}": {name: row["floating point"] / value for name, value in row.items()}
        for model, found in result["models"].items()
        for size, row in found["ms"].items()
        if size.startswith("8")
    }
    bars(axes, rows, "ONNX Runtime: times as fast as floating point")


def scaling(axes: Axes, result: Mapping[str, Any]) -> None:
    for i, (name, rows) in enumerate(result["configs"].items()):
        for j, (axis, counts) in enumerate(rows.items()):
            devices = [int(count) for count in counts]
            style = series_style(i) | {"linestyle": series_style(j)["linestyle"]}
            axes.plot(devices, [row["shared"] for row in counts.values()], label=f"{name}, {axis}", **style)
    axes.set_xticks(devices)
    axes.set_xlabel("devices")
    finish(axes, "Share of the products that are computed once", line=None)


PANELS: dict[str, Callable[[Axes, Mapping[str, Any]], None]] = {
    "attention": attention,
    "attention_causal": attention,
    "backends": backends,
    "families": families,
    "training_step": training_step,
    "evaluation": evaluation,
    "integer_matmul": integer_matmul,
    "integer_matmul_384": integer_matmul,
    "noise": noise,
    "onnx_graphs": onnx_graphs,
    "scaling": scaling,
}


def bars(axes: Axes, rows: Mapping[str, Mapping[str, float]], title: str) -> None:
    """Groups of horizontal bars, a group for each name."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    height = 0.8 / len(rows)
    for i, (label, row) in enumerate(rows.items()):
        places = [names.index(name) + i * height for name in row]
        axes.barh(places, list(row.values()), height, color=series_style(i)["color"], label=label)
    axes.set_yticks(
        [place + 0.4 - height / 2 for place in range(len(names))], [name.replace("_", " ") for name in names]
    )
    axes.invert_yaxis()
    axes.axvline(1, color=MUTED, linewidth=1)
    axes.grid(axis="y", visible=False)
    axes.set_title(title)
    if len(rows) > 1:
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


def finish(axes: Axes, title: str, line: float | None = 1) -> None:
    """Title, legend, and a line at what is compared with."""
    axes.set_title(title)
    if line is not None:
        axes.axhline(line, color=MUTED, linewidth=1)
    axes.legend(fontsize=7)
