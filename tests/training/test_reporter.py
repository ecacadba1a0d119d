"""Rates as they are logged and shown."""

from __future__ import annotations

import pytest

from qtx.training.reporter import Work, metric_prefix


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, ("0", "")),
        (0.25, ("0.25", "")),
        (456.4, ("456", "")),
        (999.6, ("1", "k")),
        (12_345.0, ("12.3", "k")),
        (7.8e9, ("7.8", "G")),
        (2e15, ("2000", "T")),
    ],
)
def test_metric_prefix(value, shown):
    assert metric_prefix(value) == shown


@pytest.mark.parametrize(
    ("work", "rates", "shown"),
    [
        (Work(examples=8), {"examples_per_second": 16}, "16 examples/s"),
        (
            Work(examples=8, tokens=4_000, flops=3e9),
            {"examples_per_second": 16, "tokens_per_second": 8_000, "model_flops_per_second": 6e9},
            "8k tokens/s, 6 GFLOP/s",
        ),
        (
            Work(examples=8, flops=3e9, peak_flops=1.5e10),
            {"examples_per_second": 16, "model_flops_per_second": 6e9, "model_flops_utilization": 0.4},
            "16 examples/s, MFU 40%",
        ),
    ],
)
def test_rates(work, rates, shown):
    assert work.rates(2.0) == rates
    assert work.shown(2.0) == shown
