from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtx.data.splitting import held_out_names
from qtx.foundation.errors import QtxError


@settings(deadline=None)
@given(names=st.sets(st.text(), min_size=2, max_size=30), fraction=st.floats(1e-6, 0.5))
def test_both_sides_have_names_and_order_does_not_matter(names, fraction):
    held_out = held_out_names(sorted(names), fraction)
    assert held_out < names and held_out
    assert held_out == held_out_names(sorted(names, reverse=True), fraction)
    assert held_out == held_out_names([*names, *names], fraction)


def test_the_split_is_this_one_forever():
    names = [f"document {i}" for i in range(20)]
    assert held_out_names(names, 0.1) == {"document 0", "document 12"}
    assert held_out_names(names, 0.1) < held_out_names(names, 0.3)


@pytest.mark.parametrize("fraction", [0.0, 0.51, -1.0, float("nan")])
def test_refuses(fraction):
    with pytest.raises(QtxError, match="held_out_fraction"):
        held_out_names(["a", "b"], fraction)
