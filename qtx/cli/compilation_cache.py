"""Keeping compiled programs, so that the same command starts faster the next time.

It is JAX's persistent compilation cache, in the user's cache folder. What the user's environment says of it goes first:
`JAX_ENABLE_COMPILATION_CACHE=false` turns it off, `JAX_COMPILATION_CACHE_DIR=FOLDER` puts it elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import jax

MOST_BYTES = 2**30
"""Of all programs; what was not used for longest goes first."""
LEAST_SECONDS = 0.1
"""Of compiling what is kept."""


def keep_compiled_programs() -> None:
    """Has JAX keep them in `folder()`, unless another is chosen already, or nothing can be written there."""
    set_already = jax.config.values
    if set_already["jax_compilation_cache_dir"] is not None or not set_already["jax_enable_compilation_cache"]:
        return
    try:
        own = folder()
        own.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return
    if not os.access(own, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(own))
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)


def folder() -> Path:
    """`~/.cache/qtx/compiled/PROCESSOR`, or below `$XDG_CACHE_HOME`."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return caches / "qtx" / "compiled" / _processor()


def _processor() -> str:
    """A name of this processor's instructions: code for another's, from a home that machines share, may not run."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    kind = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return hashlib.sha256(f"{platform.machine()} {kind}".encode()).hexdigest()[:8]
