"""Descriptions of parameters that no module has: what each is, by the names that Flax gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import traverse_util

from qtx.anatomy import Parameter, Role, Stack
from qtx.parts import Part

ROLES = {"kernel": Role.KERNEL, "embedding": Role.TABLE, "bias": Role.BIAS, "scale": Role.SCALE}


def describe(params: Mapping[str, Any]) -> dict[str, Parameter]:
    """Describes a tree of parameters, of which those under `layers` are stacked."""
    found = {}
    for path, x in traverse_util.flatten_dict(params, sep="/").items():
        stack = Stack("layers", len(x)) if path.startswith("layers/") else None
        shape = x.shape if stack is None else x.shape[1:]
        found[path] = Parameter(path, shape, stack, (), ROLES[path.split("/")[-1]], Part.OTHER)
    return found
