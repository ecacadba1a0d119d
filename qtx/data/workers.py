"""Batches made in other processes, for training on accelerators, which take them faster than one process makes them.

A batch is a function of its number, so any process can make any of them, and their order is that of one process.
"""

from __future__ import annotations

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import cloudpickle

from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError
from qtx.foundation.hardware import cpu_cores

if TYPE_CHECKING:
    import grain

AHEAD = 2
"""Number of batches that a process makes ahead of training."""
MOST_PROCESSES = 16

_batches: grain.MapDataset


class WorkerBatches:
    """An endless iterator over `batches`, made in other processes; its state is that of Grain's own iterator.

    Args:
      batches: a random-access dataset; it is pickled, closures and all.
      processes: number of processes, 1 or more.

    Raises:
      QtxError: if a process has died; errors in making a batch are raised as in the process.
    """

    def __init__(self, batches: grain.MapDataset[Batch], processes: int):
        self._pool = ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn"), _begin, (cloudpickle.dumps(batches),)
        )
        self._ahead = AHEAD * processes
        self._next = 0
        self._made: collections.deque[Future[Batch]] = collections.deque()

    def __iter__(self) -> WorkerBatches:
        return self

    def __next__(self) -> Batch:
        while len(self._made) < self._ahead:
            self._made.append(self._pool.submit(_make, self._next + len(self._made)))
        self._next += 1
        try:
            return self._made.popleft().result()
        except concurrent.futures.BrokenExecutor as error:
            raise QtxError(
                f"a process that reads data has died ({error}): perhaps for want of memory; train again to go on"
            ) from error

    def get_state(self) -> dict[str, Any]:
        """Returns the number of the next batch."""
        return {"next_index": self._next}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to the batch of a state."""
        for future in self._made:
            future.cancel()
        self._made.clear()
        self._next = state["next_index"]

    def close(self) -> None:
        """Ends the processes when they have made their current batches."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def spare_processes() -> int:
    """Returns the number of processes to make batches beside an accelerator: one less than the cores, from 1 to 16."""
    return min(MOST_PROCESSES, max(1, cpu_cores() - 1))


def _begin(pickled: bytes) -> None:
    global _batches
    _batches = cloudpickle.loads(pickled)
    # Stopped by Ctrl-C or a signal to all processes, training has the time to save its state, for which it may need a
    # batch; a training that is killed outright does not end these processes, so a thread watches it.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)


def _make(index: int) -> Batch:
    return _batches[index]
