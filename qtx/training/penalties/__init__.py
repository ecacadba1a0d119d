"""Penalties: regularizers of activations in the loss. A new penalty is a file here and a line in `PENALTIES`."""

from __future__ import annotations

from collections.abc import Sequence

from qtx.foundation.config import registered_name
from qtx.foundation.errors import QtxError
from qtx.foundation.variants import join_variant, make_variant, split_variant
from qtx.training.penalties.base import Penalty
from qtx.training.penalties.hinge import Hinge
from qtx.training.penalties.square import Square
from qtx.training.penalties.tweo import Tweo

PENALTIES: dict[str, type[Penalty]] = {"square": Square, "hinge": Hinge, "tweo": Tweo}
KIND = "penalty"


def make_penalties(texts: Sequence[str]) -> dict[str, Penalty]:
    """Returns the penalties that `training.penalties` names, by the names under which they are logged: the kind's name,
    or e.g. `hinge_2` for a second penalty of a kind.

    Raises:
      QtxError: for an unknown kind or option, or a bad value.
    """
    penalties: dict[str, Penalty] = {}
    for text in texts:
        if not isinstance(text, str):
            raise QtxError(f"penalties has {text!r}: expected texts, e.g. ('hinge,tau=10,weight=.1',)")
        kind, _ = split_variant(text, KIND)
        earlier = sum(type(other) is PENALTIES.get(kind) for other in penalties.values())
        name = f"{kind}_{earlier + 1}" if earlier else kind
        if name in penalties:
            raise QtxError(f"two penalties would be called {name}: rename the kind {name!r}")
        penalties[name] = make_variant(PENALTIES, KIND, text)
    return penalties


def complete_text(penalty: Penalty) -> str:
    """Returns the text that names a penalty with all its options and their values, but for those that are None."""
    options = {name: value for name, value in vars(penalty).items() if value is not None}
    return join_variant(registered_name(PENALTIES, type(penalty)), options)


__all__ = ["PENALTIES", "Hinge", "Penalty", "Square", "Tweo", "complete_text", "make_penalties"]
