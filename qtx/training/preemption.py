"""SIGTERM, by which clusters take a machine back, as a request to stop after the current step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def preemption() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether the run is to stop now; once True, it stays so. Every process has to ask
    equally often: after every step, and before every batch of an evaluation.

    Several processes of `jax.distributed` agree on the moment; JAX's runtime takes the signal, on any of them. A single
    process takes the signal itself, in its main thread only, and restores the former handler afterwards.
    """
    if jax.process_count() > 1:
        yield _Agreement()
        return
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: requested.set())
    try:
        yield requested.is_set
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Agreement:
    """A function that says whether all processes have reached the question, by its number, at which they stop."""

    def __init__(self) -> None:
        self._asked, self._reached = 0, False

    def __call__(self) -> bool:
        self._asked += 1
        self._reached = self._reached or multihost_utils.reached_preemption_sync_point(self._asked)
        return self._reached
