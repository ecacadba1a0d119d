"""Numbers as text: what is not 0 or 1 does not look so."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtx.analysis.sensitivity import Sensitivity, Sweep, table_rows
from qtx.cli.commands import shown
from qtx.foundation.numbers import fixed, mean_and_deviation, number, percent
from qtx.pages.results import main_table, measured


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        (fixed, 0.998, "0.9980"),
        (fixed, 0.99996, "0.99996"),
        (fixed, 1.00002, "1.00002"),
        (fixed, 1.0, "1.0000"),
        (fixed, 1 - 1e-7, "1.0000"),  # what float32 makes of a vector's cosine to itself
        (fixed, 0.00012, "0.0001"),
        (fixed, 0.000021, "2.1e-05"),
        (fixed, -0.000021, "-2.1e-05"),
        (fixed, 0.0, "0.0000"),
        (number, 4.4949, "4.49"),
        (number, 21.52, "21.5"),
        (number, 735.2, "735"),
        (number, 1.3e7, "1.3e+07"),
        (number, 0.0021, "0.0021"),
        (number, 0.00004, "4.0e-05"),
        (number, 0.9996, "0.9996"),
        (number, 0, "0"),
        (number, 12345, "12,345"),
        (number, math.inf, "inf"),
        (percent, 0.374, "37%"),
        (percent, 0.003, "0.3%"),
        (percent, -0.003, "-0.3%"),
        (percent, 0.997, "99.7%"),
        (percent, 1.0, "100%"),
        (percent, 0.0, "0%"),
    ],
)
def test_numbers_are_told_from_0_and_1(text, value, expected):
    assert text(value) == expected


@settings(deadline=None)
@given(st.floats(1e-30, 1 - 1e-6) | st.floats(1 + 1e-6, 1e5))
def test_no_number_but_0_and_1_is_written_so(value):
    for text in (fixed, number):
        assert float(text(value).replace(",", "")) not in (0, 1)
    assert percent(value) not in ("0%", "100%")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([4.0, 5.0], "4.50 ± 0.71"),
        ([100.0, 120.0], "110 ± 14"),
        ([3000.0, 3300.0], "3150 ± 212"),
        ([1.0, 1.4], "1.20 ± 0.28"),
        ([0.5, 0.50002], "0.500 ± 1.4e-05"),
        ([2.0, 2.0], "2.00"),
        ([3.0], "3.00"),
        ([2.0, math.inf], "inf ± nan"),
    ],
)
def test_deviations_have_two_digits(values, expected):
    assert mean_and_deviation(values) == expected


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("fidelity", [0.998], "0.9980"),
        ("fidelity", [0.99801, 0.99803], "0.9980 ± 1.4e-05"),
        ("fidelity", [0.99995, 0.99999], "0.99997 ± 2.8e-05"),
        ("accuracy", [0.8812], "88.1"),
        ("accuracy", [0.9997], "99.97"),
        ("accuracy", [1.0], "100"),
        ("accuracy", [0.88, 0.881], "88.0 ± 0.071"),
        ("perplexity", [21.52, 21.54], "21.5 ± 0.014"),
    ],
)
def test_a_metric_is_the_same_in_every_table(metric, values, expected):
    assert measured(metric, *values) == expected
    runs = [
        {"variant": "softmax", "metric": metric, "fp": x, "max_inf_norm": 2.0, "avg_kurtosis": 3.0, "quantized": {}}
        for x in values
    ]
    assert main_table(runs)[1][0][1] == expected
    if len(values) == 1:
        assert shown(metric, values[0]) == f"{metric} {expected}{' %' * (metric == 'accuracy')}"


@pytest.mark.parametrize(
    ("metric", "value", "expected"),
    [("fidelity", 0.999998, "0.999998"), ("accuracy", 0.999998, "99.9998"), ("perplexity", 21.51234, "21.512")],
)
def test_what_one_tensor_costs_is_seen(metric, value, expected):
    row = Sensitivity("activation", "final_norm", None, 8, 0.04, value, 1.0)
    (everything, of_tensor) = table_rows(Sweep("w8a8", metric, 1.0, value, (row,)), 1)
    assert everything[4] == of_tensor[4] == expected
    assert of_tensor[3] == "0.040"


def test_ticks_of_a_plot_say_their_values_in_full():
    from qtx.pages.plots import bit_ladder

    figure = bit_ladder({"softmax": {"FP": [0.99999], "W8A8": [0.99995]}}, "fidelity")
    figure.draw_without_rendering()
    labels = [float(label.get_text()) for label in figure.axes[0].get_yticklabels()]
    assert np.ptp(labels) < 1e-3 and 0.99996 in labels
