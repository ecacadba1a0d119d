"""Keeping compiled programs, so that the same command starts faster the next time.

It is JAX's persistent compilation cache, in the user's cache folder. What the user's environment says of it goes first:
`JAX_ENABLE_COMPILATION_CACHE=false` turns it off, `JAX_COMPILATION_CACHE_DIR=FOLDER` puts it elsewhere.
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
    "jax_compilation_cache_max_size": 2**30,  # bytes; what was not used for longest goes first
    "jax_persistent_cache_min_compile_time_secs": 0.1,
}


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
    for program in own.glob("*-cache"):  # one whose writing was cut off, which JAX would fail at ever after
        if not program.with_name(f"{program.name.removesuffix('cache')}atime").exists():
            program.unlink(missing_ok=True)
    # A full disk costs time here and nothing else; what it costs elsewhere is told there.
    warnings.filterwarnings("ignore", message="Error writing persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(own))
    for name, value in OPTIONS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def folder() -> Path:
    """`~/.cache/qtx/compiled/PROCESSOR-CORES`, or below `$XDG_CACHE_HOME`: loops are compiled for a number of cores."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return caches / "qtx" / "compiled" / f"{_processor()}-{cpu_cores()}"


def _processor() -> str:
    """A name of this processor's instructions: code for another's, from a home that machines share, may not run."""
    return hashlib.sha256(f"{platform.machine()} {cpu_instructions()}".encode()).hexdigest()[:8]
