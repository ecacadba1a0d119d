"""This module styles figures, and makes SVG of them that takes its fonts and colours, light or dark, from a page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Light colour to its counterpart on a dark page. The series are Okabe and Ito's palette for colour-blind readers, a
# little darker where the original is too pale for lines; every series also has a marker and a dash pattern of its own.
TEXT, MUTED, GRID = "#1f2328", "#59636e", "#d1d9e0"
DARK = {
    TEXT: "#e6edf3",
    MUTED: "#9198a1",
    GRID: "#3d444d",
    "#0072b2": "#58a6ff",
    "#d55e00": "#ff8c42",
    "#009e73": "#3fcf9d",
    "#b4518a": "#f08cc4",
    "#8a6d00": "#e3b341",
    "#5b5bd6": "#b0a6ff",
}
SERIES = tuple(color for color in DARK if color not in (TEXT, MUTED, GRID))
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)))
WIDTH = 4.7  # inches: two such figures fit side by side on a desktop, and one on a phone with text that can be read

_SETTINGS: Any = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": TEXT,
    "axes.titlecolor": TEXT,
    "text.color": TEXT,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,  # 0.9998, and not 8e-4 beside +9.99e-1
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a token may contain dollar signs
}


def series_style(index: int) -> dict:
    """Returns the line style of the series at a position; styles repeat after six."""
    return {
        "color": SERIES[index % len(SERIES)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index % len(DASHES)],
    }


@contextmanager
def drawing(height: float, width: float = WIDTH) -> Iterator[Figure]:
    """Yields a new figure of `width` x `height` inches, to be drawn on within the context."""
    with matplotlib.rc_context(_SETTINGS):
        yield Figure(figsize=(width, height), layout="constrained")


def legend(figure: Figure, axes: Axes) -> None:
    """Adds a legend above the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2 if max(map(len, labels), default=0) < 24 else 1)


def svg(figure: Figure, name: str) -> str:
    """Returns the figure as an `<svg>` element that takes its fonts and colours from the page (see `css_colors`).

    Args:
      figure: a figure of this module's `drawing`.
      name: unlike that of any other figure in the page, so that the ids of clip paths and markers do not collide.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser has the fonts for every token
        FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    xlink = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf"<svg \1 {xlink}>", text, count=1)
    text = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = text.replace("'DejaVu Sans'", "system-ui, sans-serif")
    return re.sub("|".join(DARK), lambda match: f"var({_variable(match[0])})", text)


def css_colors() -> str:
    """Returns the style sheet with the figures' colours, for light and dark pages."""
    light = "".join(f"{_variable(color)}:{color};" for color in DARK)
    dark = "".join(f"{_variable(color)}:{other};" for color, other in DARK.items())
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def _variable(color: str) -> str:
    return f"--c{color[1:]}"
