"""The figures of a diagnosis that no comparison has. Each function takes plain data and returns a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from qtx.pages.plots import log_scale, strips
from qtx.pages.style import MUTED, SERIES, drawing, legend

FLOOR = 0.3
"""The lower end of the vertical axis of `dimensions`, as a share of the median dimension's root mean square."""


def dimensions(tensors: Mapping[str, tuple[np.ndarray, float, Sequence[int]]], ratio: float) -> Figure:
    """Draws the largest magnitude of every dimension of tensors, one strip per tensor, on a logarithmic scale.

    Args:
      tensors: name to magnitudes `[D]`, the root mean square of the median dimension, and the dimensions to be named.
      ratio: an outlier exceeds this many times that root mean square; drawn as a dashed line.
    """

    def draw(axes: Axes, name: str, tensor: tuple[np.ndarray, float, Sequence[int]], _: str) -> None:
        reach, typical, named = tensor
        places, floor = np.arange(len(reach)), FLOOR * typical
        outlying = reach > ratio * typical
        for where, color in ((~outlying, SERIES[0]), (outlying, SERIES[1])):
            axes.vlines(places[where], floor, np.maximum(reach[where], floor), color=color, linewidth=1)
        axes.axhline(ratio * typical, color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
        for place in named:
            axes.annotate(str(place), (place, reach[place]), xytext=(3, -3), textcoords="offset points", fontsize=8)
        log_scale(axes, LogLocator(numticks=4))
        axes.set(xlim=(-0.02 * len(reach), 1.02 * len(reach)), ylim=(floor, 2 * reach.max()))

    return strips(tensors, draw, 0.5 + 1.25 * len(tensors), "dimension", "largest magnitude (log scale)")


def remedies(reached: Mapping[str, float], full: float, label: str) -> Figure:
    """Draws what each way to quantize reaches, from what the first one reaches.

    Args:
      reached: name to metric; the first is the one that the others are to improve on.
      full: the metric in floating point.
      label: title of the metric.
    """
    names, values = list(reached)[::-1], list(reached.values())[::-1]
    as_is, places = values[-1], range(len(values))
    with drawing(1.1 + 0.27 * len(names)) as figure:
        axes = figure.subplots()
        axes.hlines(places, as_is, values, color=SERIES[2], linewidth=2)
        axes.plot(values, places, "o", color=SERIES[2], label="quantized so")
        axes.axvline(full, color=MUTED, linewidth=1, label="floating point")
        axes.axvline(as_is, color=MUTED, linewidth=1, linestyle="--", label=names[-1])
        axes.set_yticks(places, names)
        axes.set(xlabel=label, ylim=(-0.6, len(names) - 0.4))
        axes.grid(axis="y", visible=False)
        legend(figure, axes)
    return figure
