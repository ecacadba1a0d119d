"""SIGTERM, by which clusters take a machine back, as a request to stop after the current step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def preemption() -> Iterator[Callable[[int], bool]]:
    """Yields a function of the step, to be asked after every step by every process: is the run to stop now?

    Several processes of `jax.distributed` agree on the step; its runtime takes the signal, on any of them. One process
    takes it itself, if it is in its main thread, and gives it back afterwards.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: requested.set())
    try:
        yield lambda step: requested.is_set()
    finally:
        signal.signal(signal.SIGTERM, previous)
