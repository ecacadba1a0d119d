"""Keeping freed memory, for training on a CPU.

XLA's CPU backend allocates the intermediate values anew at every step: hundreds of megabytes that the C library gives
back to the kernel and gets again. Touching the pages took a quarter of a small BERT's step
(`benchmarks/training_step.py`).
"""

from __future__ import annotations

import ctypes
import sys

# Parameters of glibc's mallopt (malloc.h), with values.
GLIBC_OPTIONS = {
    -8: 1,  # M_ARENA_MAX: one heap, which can grow to any size
    -4: 0,  # M_MMAP_MAX: no allocation outside of the heap
    -1: -1,  # M_TRIM_THRESHOLD: the heap never shrinks
}


def keep_freed_memory() -> None:
    """Tells glibc to keep what this process frees; does nothing where there is no glibc.

    Call it before large allocations. The process then keeps its peak memory to its end, and perhaps more, since freed
    memory fragments; but training needs the peak again at every step anyway.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for option, value in GLIBC_OPTIONS.items():
        mallopt(option, value)
