"""What the environment says to libraries: set right where qtx needs something else, told where JAX cannot start."""

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
"""Settings under which JAX refuses what qtx and its libraries do, with the values under which it does not."""


def settle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets what qtx is written for, and says so on stderr; before the libraries are imported, which read it then."""
    environment["MPLBACKEND"] = "agg"  # plots are files, whatever windows there may be
    for name, value in WRITTEN_FOR.items():
        given = environment.get(name, value)
        if given != value:
            environment[name] = value
            print(f"qtx: {name}={given} is set, but qtx is written for {value}: it runs with that", file=sys.stderr)


def why_jax_fails() -> str | None:
    """Why JAX cannot start in this environment, in a line; None if it can. To be asked when something has failed."""
    try:
        import jax

        jax.devices()
    except Exception as error:  # what its plugins raise, of whatever kind
        given = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("JAX_")]
        reason = one_line(error).partition(" (set JAX_PLATFORMS")[0] or "no such devices are there"
        return f"JAX cannot start ({reason}): unset what is wrong of {', '.join(given) or 'the environment'}"
    return None
