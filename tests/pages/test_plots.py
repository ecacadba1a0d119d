"""Figures: what is drawn is what was given, and the SVG that a page takes in."""

from __future__ import annotations

import re

import numpy as np
import pytest

from qtx.analysis.head_map import HeadMap
from qtx.pages import plots, style

CURVES = {"softmax": [[(0, 4.0), (10, 2.0)], [(0, 6.0), (5, 4.0), (10, 2.0)]], "gated": [[(0, 5.0), (10, 1.0)]]}
HEAD = HeadMap(0, 1, np.eye(3), np.ones(3), np.arange(3.0), None, ["a", "$x_1$ & <b>", "中"])
COUNTS = {"softmax": (np.linspace(-8, 8, 1025), np.ones(1024, int), np.tile([0, 0, 0, 4], 256))}
LADDER = {"softmax": {"FP": [4.0, 5.0], "W8A8": [4.5, 5.5]}, "gated": {"FP": [4.0], "W8A8": []}}
HEADS = {"softmax": [{"sink_mass": np.array([[0.5, 0.9]]), "value_drain": np.array([[0.4, 0.1]])}]}

FIGURES = {
    "over_training": lambda: plots.over_training(CURVES, "loss"),
    "over_layers": lambda: plots.over_layers({"softmax": [np.array([1.0, 700.0])]}, "infinity norm"),
    "bit_ladder": lambda: plots.bit_ladder(LADDER, "perplexity"),
    "outlier_strips": lambda: plots.outlier_strips({"softmax": np.array([0, 3, 0]), "gated": np.zeros(3, int)}, "x"),
    "value_range": lambda: plots.value_range(COUNTS, "value"),
    "grid_steps": lambda: plots.grid_steps(COUNTS, "value"),
    "sinks": lambda: plots.sinks(HEADS),
    "attention_map": lambda: plots.attention_map(HEAD, "softmax: layer 1, head 2"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_svg_in_the_pages_colours(name):
    text = style.svg(FIGURES[name](), name)
    assert text.startswith("<svg ") and text.rstrip().endswith("</svg>")
    assert "DejaVu" not in text and "<metadata" not in text and "$\\mathdefault" not in text
    assert "var(--c" in text
    assert not re.search("|".join(style.DARK), text)
    assert set(re.findall(r"var\((--c\w+)\)", text)) <= set(re.findall(r"--c\w+", style.css_colors()))
    assert text == style.svg(FIGURES[name](), name)


def test_ids_of_two_figures_in_one_page_do_not_meet():
    first, second = (set(re.findall(r"url\(#(\w+)\)", style.svg(FIGURES["over_training"](), name))) for name in "ab")
    assert first and second and not first & second


def test_a_curve_is_the_mean_over_seeds_where_any_seed_was_measured():
    axes = plots.over_training(CURVES, "loss").axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    np.testing.assert_array_equal(lines["softmax"].get_xdata(), [0, 5, 10])
    np.testing.assert_array_equal(lines["softmax"].get_ydata(), [5.0, 3.5, 2.0])
    assert axes.get_yscale() == "linear"


def test_values_far_apart_are_drawn_on_a_logarithmic_axis():
    assert plots.over_layers({"softmax": [np.array([1.0, 700.0])]}, "infinity norm").axes[0].get_yscale() == "log"
    assert plots.over_layers({"none": [np.array([0.0, 700.0])]}, "infinity norm").axes[0].get_yscale() == "linear"


def test_the_ladder_leaves_out_what_was_not_measured():
    axes = plots.bit_ladder(LADDER, "perplexity").axes[0]
    bars = {container.get_label(): container.lines[0].get_ydata() for container in axes.containers}
    np.testing.assert_array_equal(bars["softmax"], [4.5, 5.0])
    np.testing.assert_array_equal(bars["gated"], [4.0])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["FP", "W8A8"]


def test_the_bulk_says_how_many_steps_of_the_grid_it_gets():
    # Every fourth bin is a step; the last of the 256 is in the outermost bin, which stands for all that lies beyond.
    assert plots.grid_steps(COUNTS, "value").axes[0].get_title(loc="left") == "softmax: 255 steps"


@pytest.mark.parametrize("top, scale", [(3, "linear"), (3000, "log")])
def test_one_outlier_is_seen_beside_many(top, scale):
    axes, other = plots.outlier_strips({"softmax": np.array([0, top, 1]), "none": np.zeros(3, int)}, "x").axes
    assert axes.get_yscale() == other.get_yscale() == scale
    ends = [segment[:, 1] for segment in axes.collections[0].get_segments()]
    assert [end.max() for end in ends] == [top, 1] and all(end.min() < 1 for end in ends)
    assert axes.get_ylim()[0] < 1 < top < axes.get_ylim()[1]
    assert other.get_title(loc="left") == "none: no outliers"


def test_heads_that_do_not_attend_are_no_sinks():
    off = {"none": [{"sink_mass": np.zeros((1, 2)), "value_drain": np.ones((1, 2))}]}
    axes = plots.sinks(HEADS | off).axes[0]
    assert [collection.get_label() for collection in axes.collections] == ["softmax"]


@pytest.mark.parametrize(
    "token, label",
    [("Ġthe", "the"), ("##ing", "##ing"), ("Ċ", "\\n"), (" ", "␣"), ("a" * 20, "aaaaaaaaa…"), ("$x$", "$x$")],
)
def test_tokens_are_readable_labels(token, label):
    assert plots.token_label(token) == label
