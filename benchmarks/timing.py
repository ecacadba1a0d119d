"""Wall-clock times of compiled functions, measured side by side, and where they go."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np


def interleaved(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The median seconds of each function, called in turns, so that a slow moment of the machine meets all of them.

    Args:
      functions: name to a function without arguments, whose first call compiles and is not counted.
      repeats: timed calls of each.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def count(text: str) -> int:
    """The type of flags that count."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a count, 1 or more")
    return int(text)


def output_file(text: str) -> Path:
    """The type of `--output`: a file that can be written at the end of an hour."""
    file = Path(text)
    if file.is_dir() or not file.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a file in a folder that exists")
    return file
