"""The report's figures. Each function takes plain data by variant, with a list over seeds, and returns a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from qtx.pages.style import MUTED, SERIES, drawing, legend, series_style

Points = Sequence[tuple[float, float]]
Counts = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # bin edges [N + 1], counts [N], counts [N] when quantized
SHOWN_BINS = 64
LOG_RATIO = 20  # positive values that span more than this are drawn on a logarithmic axis


def over_training(curves: Mapping[str, Sequence[Points]], label: str) -> Figure:
    """Draws a measurement over training: the mean over seeds, in a band from the smallest to the largest.

    Args:
      curves: variant to one list of (step, value) per seed.
      label: title of the vertical axis.
    """
    bands = {}
    for variant, seeds in curves.items():
        steps = np.array(sorted({step for points in seeds for step, _ in points}))
        bands[variant] = steps, np.array([np.interp(steps, *np.transpose(points)) for points in seeds])
    return _bands(bands, "training step", label)


def over_layers(values: Mapping[str, Sequence[np.ndarray]], label: str, first: int = 1) -> Figure:
    """Draws a measurement `[L]` by layer: the mean over seeds, in a band from the smallest to the largest.

    Args:
      values: variant to one array per seed.
      label: title of the vertical axis.
      first: number of the first layer.
    """
    bands = {variant: (first + np.arange(len(seeds[0])), np.array(seeds)) for variant, seeds in values.items()}
    figure = _bands(bands, "layer", label)
    figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def bit_ladder(results: Mapping[str, Mapping[str, Sequence[float]]], label: str) -> Figure:
    """Draws the metric in floating point and at each scheme: mean over seeds with their standard deviation.

    Args:
      results: variant to scheme (the first: floating point) to one value per seed.
      label: title of the vertical axis.
    """
    schemes = list(dict.fromkeys(scheme for row in results.values() for scheme in row))
    with drawing(3.4) as figure:
        axes = figure.subplots()
        for index, (variant, row) in enumerate(results.items()):
            places = [place for place, scheme in enumerate(schemes) if row.get(scheme)]
            means = np.array([np.mean(row[schemes[place]]) for place in places])
            spread = np.array([np.std(v, ddof=1) if len(v := row[schemes[place]]) > 1 else 0.0 for place in places])
            # Side by side, for error bars on top of each other cannot be told apart.
            shift = 0.09 * (index - (len(results) - 1) / 2)
            # A bar that would reach below zero has no place on a logarithmic axis.
            spread = np.array([np.minimum(spread, 0.9 * np.abs(means)), spread])
            style = series_style(index)
            axes.errorbar(np.array(places) + shift, means, spread, label=variant, capsize=2.5, elinewidth=1, **style)
        _log_if_wide(axes, [value for row in results.values() for values in row.values() for value in values], ratio=5)
        axes.set_xticks(range(len(schemes)), schemes)
        axes.set(ylabel=label)
        legend(figure, axes)
    return figure


def outlier_strips(counts: Mapping[str, np.ndarray], label: str) -> Figure:
    """Draws numbers of outliers along an axis (hidden dimension, token position), one strip per variant, on one scale.

    Args:
      counts: variant to counts `[N]`.
      label: title of the horizontal axis.
    """
    top = max(int(values.max()) for values in counts.values())
    floor = 0.6 if top > LOG_RATIO else 0  # below 1, so that a single outlier is seen on a logarithmic axis

    def draw(axes: Axes, variant: str, values: np.ndarray, color: str) -> None:
        places, total = np.flatnonzero(values), int(values.sum())
        axes.vlines(places, floor, values[places], color=color, linewidth=max(1.2, 160 / len(values)))
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_ylim(floor, 1.2 * max(top, 1))
        axes.grid(axis="x", visible=False)
        axes.set_title(f"{variant}: {total:,}" if total else f"{variant}: no outliers")
        if floor:
            log_scale(axes, LogLocator(numticks=4))
        else:
            axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))

    return strips(counts, draw, 0.55 + 0.72 * len(counts), label, "outliers", sharey=True)


def value_range(counts: Mapping[str, Counts], label: str) -> Figure:
    """Draws all values of one tensor before (filled) and after quantization (line), one strip per variant on one scale.

    Args:
      counts: variant to counts; the outer bins hold values beyond the ends.
      label: title of the horizontal axis.
    """

    def draw(axes: Axes, variant: str, of_variant: Counts, color: str) -> None:
        edges, before, after = of_variant
        # Few wide bins: bins as narrow as a few steps of the grid would show a beat pattern.
        width = len(before) // SHOWN_BINS
        axes.stairs(_summed(before, width), edges[::width], fill=True, color=color, alpha=0.35)
        if after is not None:
            axes.stairs(_summed(after, width), edges[::width], color=color, linewidth=1.2)
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)
        _without_scale(axes)

    return strips(counts, draw, 0.75 + 0.85 * len(counts), label, "how often (log scale)")


def grid_steps(counts: Mapping[str, Counts], label: str) -> Figure:
    """Draws the bulk of one tensor before quantization (filled), and the steps that it falls on afterwards (needles).

    Args:
      counts: variant to counts; the outer bins, which hold values beyond the ends, are left out.
      label: title of the horizontal axis.
    """

    def draw(axes: Axes, variant: str, of_variant: Counts, color: str) -> None:
        edges, before, after = of_variant
        width = len(before) // (2 * SHOWN_BINS)
        smooth = _summed(before, width)[1:-1]
        axes.stairs(smooth / max(smooth.max(), 1), edges[::width][1:-1], fill=True, color=color, alpha=0.3)
        if after is not None:
            inner = after[1:-1]
            steps = np.flatnonzero(inner)
            centers = (edges[1:-2] + edges[2:-1])[steps] / 2
            axes.vlines(centers, 0, inner[steps] / max(inner.max(), 1), color=color, linewidth=0.7)
            axes.set_title(f"{variant}: {len(steps)} steps")
        axes.set_ylim(0, 1.05)
        _without_scale(axes)

    return strips(counts, draw, 0.75 + 0.85 * len(counts), label, "how often")


def sinks(heads: Mapping[str, Sequence[Mapping[str, np.ndarray]]]) -> Figure:
    """Draws every head of every seed that attends at all: attention on its favourite token against that value's drain.

    Args:
      heads: variant to `qtx.analysis.Analysis.heads` per seed.
    """
    with drawing(3.4) as figure:
        axes = figure.subplots()
        for index, (variant, seeds) in enumerate(heads.items()):
            style = series_style(index)
            mass = np.concatenate([seed["sink_mass"].ravel() for seed in seeds])
            drain = np.concatenate([seed["value_drain"].ravel() for seed in seeds])
            attends = mass > 0
            look = {"color": style["color"], "marker": style["marker"], "s": 26, "alpha": 0.75, "linewidth": 0}
            if attends.any():
                axes.scatter(mass[attends], drain[attends], label=variant, **look)
        axes.axhline(1.0, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.set(xlabel="attention on the head's favourite token", ylabel="that token's |V| / other tokens'")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(bottom=0)
        legend(figure, axes)
    return figure


def attention_map(head: Any, title: str, color: str = SERIES[0]) -> Figure:
    """Draws one head: its probabilities P, with |V| of every key below and |P V| of every query at the right.

    Args:
      head: a `qtx.analysis.head_map.HeadMap`.
      title: title above the map.
      color: colour of the bars.
    """
    length = len(head.tokens)
    with drawing(5.0) as figure:
        grid = figure.add_gridspec(2, 2, width_ratios=(5, 1), height_ratios=(5, 1))
        axes = figure.add_subplot(grid[0, 0])
        image = axes.imshow(head.probs, cmap="viridis", vmin=0, vmax=1, interpolation="none", aspect="auto")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        size = 7 if length <= 18 else 6
        labels = [token_label(token) for token in head.tokens]
        axes.set_yticks(range(length), labels, fontsize=size)
        axes.tick_params(length=0)
        axes.set_ylabel("query: the token that attends")
        axes.set_title(title)
        axes.tick_params(axis="x", labelbottom=False)
        below = figure.add_subplot(grid[1, 0], sharex=axes)
        below.bar(range(length), head.value_norm, color=color)
        below.set_xticks(range(length), labels, fontsize=size, rotation=90)
        below.tick_params(axis="x", length=0)
        below.set(ylabel="|V|", xlabel="key: the token attended to")
        right = figure.add_subplot(grid[0, 1], sharey=axes)
        right.barh(range(length), head.context_norm, color=color)
        right.tick_params(axis="y", labelleft=False, length=0)
        right.set_title("|PV|" if head.openness is None else "|gate·PV|", fontweight="normal")
        below.grid(axis="x", visible=False)
        below.yaxis.set_major_locator(MaxNLocator(3))
        right.grid(axis="y", visible=False)
        right.xaxis.set_major_locator(MaxNLocator(2))
        bar = figure.add_subplot(grid[1, 1])
        bar.axis("off")
        figure.colorbar(image, ax=bar, orientation="horizontal", fraction=0.25, label="P", ticks=(0, 1))
    return figure


def token_label(token: str) -> str:
    """Makes a tick label of a token's text: byte-level and whitespace signs become readable, long texts are cut."""
    for sign, shown in (("Ġ", " "), ("Ċ", "\\n"), ("▁", " "), ("\n", "\\n"), ("\t", "\\t")):
        token = token.replace(sign, shown)
    token = token.strip(" ") or "␣"
    return token if len(token) <= 10 else f"{token[:9]}…"


def _summed(counts: np.ndarray, width: int) -> np.ndarray:
    return counts.reshape(-1, width).sum(axis=1)


def _without_scale(axes: Axes) -> None:
    axes.set_yticks([])
    axes.minorticks_off()
    axes.grid(axis="y", visible=False)


def strips(
    entries: Mapping[str, Any], draw: Callable[..., None], height: float, xlabel: str, ylabel: str, sharey: bool = False
) -> Figure:
    """Draws one strip per entry, one below the other, by `draw(axes, name, entry, color)`. The title is the entry's
    name, unless `draw` gives another."""
    with drawing(height) as figure:
        rows = figure.subplots(len(entries), sharex=True, sharey=sharey, squeeze=False)[:, 0]
        for index, (axes, (name, entry)) in enumerate(zip(rows, entries.items(), strict=True)):
            axes.set_title(name)
            draw(axes, name, entry, SERIES[index % len(SERIES)])
        rows[-1].set_xlabel(xlabel)
        figure.supylabel(ylabel, fontsize=9)
    return figure


def log_scale(axes: Axes, locator: LogLocator) -> None:
    """Makes the vertical axis logarithmic, with plain numbers at the places of `locator`."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _bands(bands: Mapping[str, tuple[np.ndarray, np.ndarray]], xlabel: str, ylabel: str) -> Figure:
    """Draws variants' places `[N]` and values there `[seeds, N]`: the mean, in a band from the smallest to the largest
    value."""
    with drawing(3.2) as figure:
        axes = figure.subplots()
        for index, (variant, (x, table)) in enumerate(bands.items()):
            style = series_style(index)
            axes.plot(x, table.mean(axis=0), label=variant, markevery=max(len(x) // 8, 1), **style)
            axes.fill_between(x, table.min(axis=0), table.max(axis=0), color=style["color"], alpha=0.18, linewidth=0)
        _log_if_wide(axes, np.concatenate([table.ravel() for _, table in bands.values()]))
        axes.set(xlabel=xlabel, ylabel=ylabel)
        legend(figure, axes)
    return figure


def _log_if_wide(axes: Axes, values: Sequence[float] | np.ndarray, ratio: float = LOG_RATIO) -> None:
    values = np.asarray(values, float)
    if len(values) and values.min() > 0 and values.max() > ratio * values.min():
        log_scale(axes, LogLocator(subs=(1, 2, 5) if values.max() < 1000 * values.min() else (1,)))
