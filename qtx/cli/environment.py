"""Environment variables of libraries: set to what qtx needs, and named in the message where JAX cannot start."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

from qtx.foundation.errors import one_line

GUARDS = ("", "_HOST_TO_DEVICE", "_DEVICE_TO_DEVICE", "_DEVICE_TO_HOST")
WRITTEN_FOR = {
    "JAX_NUMPY_DTYPE_PROMOTION": "standard",
    "JAX_NUMPY_RANK_PROMOTION": "allow",
    **{f"JAX_TRANSFER_GUARD{transfers}": "allow" for transfers in GUARDS},
}
"""JAX's settings that can make it refuse what qtx and its libraries do, with the values under which it does not."""


def settle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets the variables as qtx needs them, and reports changed ones of JAX; call it before importing the libraries."""
    environment["MPLBACKEND"] = "agg"  # plots are files, whatever windows there may be
    for name, value in WRITTEN_FOR.items():
        given = environment.get(name, value)
        if given != value:
            environment[name] = value
            print(f"qtx: {name}={given} is set, but qtx is written for {value}: it runs with that", file=sys.stderr)


def why_jax_fails() -> str | None:
    """Says in one line why JAX cannot start in this environment; None if it can. Call it after something has failed."""
    try:
        import jax

        jax.devices()
    except Exception as error:  # JAX's plugins raise errors of any kind
        given = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("JAX_")]
        reason = one_line(error).partition(" (set JAX_PLATFORMS")[0] or "no such devices are there"
        return f"JAX cannot start ({reason}): unset what is wrong of {', '.join(given) or 'the environment'}"
    return None
