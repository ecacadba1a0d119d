"""Rotary positions in a config.json: nested as transformers 5 writes them, or flat as before."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from qtx.foundation.config import read_section, registered_name
from qtx.foundation.errors import QtxError
from qtx.foundation.variants import variant_text
from qtx.models.rope_scaling import SCALINGS, scaling_of

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


SCALED = {
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low",
        "high_freq_factor": "high",
        "original_max_position_embeddings": "original",
    },
    "yarn": {
        "factor": "factor",
        "original_max_position_embeddings": "original",
        "beta_fast": "fast",
        "beta_slow": "slow",
        "truncate": "whole",
        "attention_factor": "magnitude",
    },
}
"""The keys of scaled positions in a config.json, each with its option of `qtx.models.rope_scaling`."""
# Longer contexts alone are computed otherwise, and those are refused (`max_length`).
UNSCALED = (DEFAULT, "dynamic")
ORIGINAL = "original_max_position_embeddings"


def rotary_options(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns the options `rotary_base`, `rotary_scaling` and `rotary_share` of a config.json, called `source`, whose
    key `rope_theta` says what a base is that nested options leave out.

    Raises:
      QtxError: if positions are scaled in a way that qtx does not know, or by options that the way does not have.
    """
    nested = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(nested, Mapping):
        raise QtxError(f"{source}: the options of rotary positions are {str(nested)[:100]}, expected them by name")
    given = {key: value for key, value in nested.items() if value is not None}
    kind = given.pop("rope_type", given.pop("type", DEFAULT))
    given.pop("type", None)
    told = {
        "rotary_base": given.pop("rope_theta", values["rope_theta"]),
        "rotary_share": given.pop("partial_rotary_factor", values.get("partial_rotary_factor", 1.0)),
        "rotary_scaling": "",
    }
    if kind in UNSCALED:
        return told
    if kind not in SCALED:
        raise QtxError(f"{source}: rope_type is {kind!r}; qtx supports only {', '.join((*UNSCALED, *SCALED))}")
    if ORIGINAL in SCALED[kind]:
        given.setdefault(ORIGINAL, values.get(ORIGINAL, values["max_position_embeddings"]))
    required = {field.name for field in dataclasses.fields(SCALINGS[kind]) if field.default is dataclasses.MISSING}
    missing = [key for key, option in SCALED[kind].items() if option in required and key not in given]
    if missing:
        raise QtxError(f"{source}: rope_type {kind!r} has no {', '.join(missing)}: expected a number for each")
    scales = [given.pop(key, None) for key in ("mscale", "mscale_all_dim")]
    if kind == "yarn" and all(scales) and "attention_factor" not in given:
        above, below = (0.1 * scale * math.log(max(given["factor"], 1)) + 1 for scale in scales)
        given["attention_factor"] = above / below
    unknown = [key for key in given if key not in SCALED[kind]]
    if unknown:
        raise QtxError(f"{source}: rope_type {kind!r} has {', '.join(unknown)[:100]}, which qtx does not know")
    options = {SCALED[kind][key]: value for key, value in given.items()}
    scaling: Any = read_section(SCALINGS[kind], options, f"{source}: rope_type {kind!r}")
    return told | {"rotary_scaling": variant_text(SCALINGS, scaling)}


def rotary_keys(config: Any) -> dict[str, Any]:
    """Returns the keys of a config.json for a config's rotary positions, flat as transformers 4 and 5 read them."""
    scaling = scaling_of(config.rotary_scaling)
    told: dict[str, Any] = {"rope_theta": config.rotary_base}
    if config.rotary_share != 1:
        told["partial_rotary_factor"] = config.rotary_share
    if scaling is not None:
        kind = registered_name(SCALINGS, type(scaling))
        given = {key: getattr(scaling, option) for key, option in SCALED[kind].items()}
        told["rope_scaling"] = {"rope_type": kind, **{key: value for key, value in given.items() if value is not None}}
    return told
