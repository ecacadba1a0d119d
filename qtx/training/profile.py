"""A profile of a few training steps, for TensorBoard's profiler and for Perfetto."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

# The first steps of this process are left out: they compile, and fill the pipeline.
WARM_UP_STEPS = 5
PROFILED_STEPS = 5


class Profile:
    """A `Profile` traces `PROFILED_STEPS` steps into a folder; use it in `with`, which ends a trace cut short.

    Args:
      folder: gets `plugins/profile/<time>/`, with `perfetto_trace.json.gz` for https://ui.perfetto.dev.
      done: updates done when this process starts.
      enabled: whether to profile at all.
    """

    def __init__(self, folder: Path, done: int, enabled: bool):
        self._folder, self._enabled = folder, enabled
        self._first = done + WARM_UP_STEPS + 1
        self._tracing = False

    def before(self, step: int, state: Any) -> None:
        """Starts the trace if update `step` (from 1), which comes next, is the first to trace."""
        if self._enabled and step == self._first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._tracing = True

    def after(self, step: int, state: Any) -> None:
        """Ends the trace if update `step`, which is done, is the last to trace."""
        if self._tracing and step == self._first + PROFILED_STEPS - 1:
            jax.block_until_ready(state)
            self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._tracing = False

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracing:
            self._stop()
