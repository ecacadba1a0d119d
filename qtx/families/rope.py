"""Rotary positions in a config.json: nested as transformers 5 writes them, or flat as before."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from qtx.foundation.errors import QtxError

DEFAULT, FIXED_NTK = "default", "ntk"


def flat_rope(values: Mapping[str, Any], source: str, scalings: Collection[str] = ()) -> dict[str, Any]:
    """Returns the options `rope_theta` and `rope_factor`, as far as a config.json, called `source`, gives them.

    Args:
      scalings: the types of scaled positions that the model may have.

    Raises:
      QtxError: if positions are scaled in another way.
    """
    told: dict[str, Any] = {"rope_theta": values["rope_theta"]} if "rope_theta" in values else {}
    for key in ("rope_parameters", "rope_scaling"):  # the last has precedence in transformers
        nested = values.get(key) or {}
        if not isinstance(nested, Mapping):
            raise QtxError(f"{source}: {key} is {str(nested)[:100]}, expected options by name")
        told |= {"rope_type" if name == "type" else name: value for name, value in nested.items()}
    kind = told.pop("rope_type", DEFAULT)
    theta, factor = told.pop("rope_theta", None), told.pop("factor", None)
    if kind not in (DEFAULT, *scalings) or any(value not in (None, 1) for value in told.values()):
        known, more = " or ".join(map(repr, (DEFAULT, *scalings))), f" with {str(told)[:100]}" if told else ""
        raise QtxError(f"{source}: rope_type is {kind!r}{more}; qtx supports only {known}")
    if kind != DEFAULT and factor is None:
        raise QtxError(f"{source}: rope_type is {kind!r} without a factor: expected one of 1 or more")
    options = {"rope_theta": theta, "rope_factor": None if kind == DEFAULT else factor}
    return {key: value for key, value in options.items() if value is not None}
