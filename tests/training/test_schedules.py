"""Learning-rate schedules at the steps where they bend."""

from __future__ import annotations

import numpy as np
import pytest

from qtx.training import SCHEDULES, TrainingConfig

# At updates 0, 5 (half the warm-up), 10 (its end), 60 (half-way down) and 110 (the end).
VALUES = [
    ("linear", 0.0, 0.0, (0, 0.5, 1, 0.5, 0)),
    ("linear", 0.2, 0.4, (0.2, 0.6, 1, 0.7, 0.4)),
    ("cosine", 0.0, 0.0, (0, 0.5, 1, 0.5, 0)),
    ("cosine", 0.2, 0.4, (0.2, 0.6, 1, 0.7, 0.4)),
    ("constant", 0.2, 0.0, (0.2, 0.6, 1, 1, 1)),
]


def test_every_schedule_has_a_row():
    assert {schedule for schedule, *_ in VALUES} == SCHEDULES.keys()


@pytest.mark.parametrize(("schedule", "initial", "final", "expected"), VALUES)
def test_values(schedule, initial, final, expected):
    config = TrainingConfig(
        steps=110,
        warmup_steps=10,
        learning_rate=1.0,
        schedule=schedule,
        initial_learning_rate=initial,
        final_learning_rate=final,
    )
    rates = config.make_schedule()
    np.testing.assert_allclose([rates(step) for step in (0, 5, 10, 60, 110)], expected, atol=1e-6)


def test_cosine_is_not_a_line():
    config = TrainingConfig(steps=110, warmup_steps=10, learning_rate=1.0, schedule="cosine")
    np.testing.assert_allclose(config.make_schedule()(35), (1 + np.cos(np.pi / 4)) / 2, rtol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_warmup_the_peak_comes_first(schedule):
    config = TrainingConfig(steps=10, warmup_steps=0, learning_rate=0.5, schedule=schedule)
    np.testing.assert_allclose(config.make_schedule()(0), 0.5)
