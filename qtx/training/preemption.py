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
    """Yields a function to be asked after every step, and after every batch of an evaluation, by every process as
    often: is the run to stop now? Once it is, it stays so.

    Several processes of `jax.distributed` agree on the moment; its runtime takes the signal, on any of them. One
    process takes it itself, if it is in its main thread, and gives it back afterwards.
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
    """Whether all processes have come to the question, counted from the start, at which they agreed to stop."""

    def __init__(self) -> None:
        self._asked, self._reached = 0, False

    def __call__(self) -> bool:
        self._asked += 1
        self._reached = self._reached or multihost_utils.reached_preemption_sync_point(self._asked)
        return self._reached
