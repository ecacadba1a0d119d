"""Limits of options: which values they allow, what they say of others, and what a subclass keeps."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

import pytest

from qtx.foundation.errors import QtxError
from qtx.foundation.limits import Checked, at_least, check, one_of, positive, within
from qtx.foundation.variants import make_variant

NAMES = ("left", "right")
SHAPES = {"circle": 1}
NAN, INFINITE = math.nan, math.inf


@pytest.mark.parametrize(
    ("limit", "allowed", "refused"),
    [
        (at_least(1), (1, 2, 10**400, INFINITE), (0, -1, 0.999, NAN)),
        (at_least(0), (0, -0.0, 5), (-1, -1e-300, NAN)),
        (positive(), (1e-300, 1, 10**400), (0, -1, NAN, INFINITE)),
        (within("[0, 1)"), (0, 0.999), (1, -1e-9, NAN)),
        (within("(0, 1]"), (1e-9, 1), (0, 1.001)),
        (within("[2, 16]"), (2, 16), (1, 17)),
        (within("(-1e6, 0]"), (0, -999_999), (-1e6, 1e-9, -INFINITE)),
        (within("(0, inf]"), (1, INFINITE), (0, NAN)),
        (one_of(NAMES), ("left", "right"), ("Left", "")),
    ],
)
def test_values_at_the_ends(limit, allowed, refused):
    assert all(limit.allows(value) for value in allowed)
    assert not any(limit.allows(value) for value in refused)


@dataclasses.dataclass(frozen=True)
class Turn(Checked):
    """Options with a limit of each kind."""

    angle: Annotated[float, within("[0, 360)")] = 90.0
    times: Annotated[int, at_least(1, "e.g. 2")] = 1
    speed: Annotated[float | None, positive("or None for any")] = None
    tilt: Annotated[float, within("(-1, 1)", "a tilt to either side", "e.g. 0.1")] = 0.0
    share: Annotated[float, within("[0, 1]", remedy="e.g. 0.5")] = 0.5
    way: Annotated[str, one_of(NAMES)] = "left"
    shape: Annotated[str, one_of(SHAPES, "form of a turn")] = "circle"


@dataclasses.dataclass(frozen=True)
class Slow(Turn):
    """Another default for `times`, a narrower limit for `angle`, and a check of both."""

    times: int = 2
    angle: Annotated[float, within("[0, 45]")] = 30.0

    def __post_init__(self):
        super().__post_init__()
        if self.times * self.angle > 90:
            raise QtxError("too far")


@pytest.mark.parametrize(
    ("cls", "options", "says"),
    [
        (Turn, {"angle": 360.0}, "angle is 360.0: expected a number in [0, 360)"),
        (Turn, {"times": 0}, "times is 0: expected at least 1, e.g. 2"),
        (Turn, {"speed": INFINITE}, "speed is inf: expected a positive number, or None for any"),
        (Turn, {"tilt": 1.0}, "tilt is 1.0: expected a tilt to either side, e.g. 0.1"),
        (Turn, {"share": NAN}, "share is nan: expected 0 to 1, e.g. 0.5"),
        (Turn, {"way": "lift"}, "unknown way 'lift': did you mean 'left'? expected one of left, right"),
        (Turn, {"shape": "ring"}, "unknown form of a turn 'ring': expected one of circle"),
        (Slow, {"times": 0}, "times is 0: expected at least 1, e.g. 2"),
        (Slow, {"angle": 90.0}, "angle is 90.0: expected 0 to 45"),
        (Slow, {"way": "up"}, "unknown way 'up': expected one of left, right"),
        (Slow, {"angle": 45.0, "times": 3}, "too far"),
    ],
)
def test_what_is_said_of_a_value(cls, options, says):
    with pytest.raises(QtxError) as error:
        cls(**options)
    assert str(error.value) == says


def test_an_option_that_is_none_has_no_limit():
    assert Turn(speed=None).speed is None


def test_a_name_may_be_registered_later(monkeypatch):
    monkeypatch.setitem(SHAPES, "square", 4)
    assert Turn(shape="square").shape == "square"


def test_types_are_read_and_names_prefixed_as_without_limits():
    assert make_variant({"turn": Turn}, "turn", "turn,angle=7,speed=None") == Turn(7.0)
    with pytest.raises(QtxError, match="turn 'turn,times=1.5'.times is 1.5: expected int"):
        make_variant({"turn": Turn}, "turn", "turn,times=1.5")
    turn = Turn()
    object.__setattr__(turn, "times", 0)
    with pytest.raises(QtxError, match="wheel_times is 0: expected at least 1"):
        check(turn, prefix="wheel_")
