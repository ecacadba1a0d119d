"""Keeping compiled programs, so that the same command starts faster the next time.

JAX's persistent compilation cache keeps them in the user's cache folder. The user's environment has precedence:
`JAX_ENABLE_COMPILATION_CACHE=false` turns the cache off, `JAX_COMPILATION_CACHE_DIR=FOLDER` puts it elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import platform
import warnings
from pathlib import Path

import jax

from qtx.foundation.hardware import cpu_cores, cpu_instructions

OPTIONS = {
    "jax_compilation_cache_max_size": 2**30,  # bytes; the programs that were not used for longest go first
    "jax_persistent_cache_min_compile_time_secs": 0.1,
}


def keep_compiled_programs() -> None:
    """Makes JAX keep compiled programs in `folder()`, unless the user decided otherwise or it cannot be written."""
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
    for program in own.glob("*-cache"):  # without `-atime` its writing was cut off, and JAX would fail at it forever
        if not program.with_name(f"{program.name.removesuffix('cache')}atime").exists():
            program.unlink(missing_ok=True)
    # Here a full disk only costs time; where it costs more, an error tells so.
    warnings.filterwarnings("ignore", message="Error writing persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(own))
    for name, value in OPTIONS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def folder() -> Path:
    """Returns `~/.cache/qtx/compiled/PROCESSOR-CORES`, or below `$XDG_CACHE_HOME`; code depends on the core count."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return caches / "qtx" / "compiled" / f"{_processor()}-{cpu_cores()}"


def _processor() -> str:
    """Returns a digest of this processor's instructions: machines may share a home, but not run each other's code."""
    return hashlib.sha256(f"{platform.machine()} {cpu_instructions()}".encode()).hexdigest()[:8]
