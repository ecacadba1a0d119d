"""Many processes as one: `jax.distributed`, one process per machine or per GPU."""

from __future__ import annotations

import os

import jax

from qtx.foundation.errors import QtxError

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def initialize() -> None:
    """Joins this process to the others; call it before JAX looks for devices.

    Slurm, Open MPI and Cloud TPUs tell JAX the coordinator's address, the number of processes and this one's index;
    elsewhere three environment variables do, of which JAX itself reads only the address.

    Raises:
      QtxError: if none of these tells, a variable is no number, or the other processes cannot be reached.
    """
    numbers = {name: os.environ[name] for name in (COUNT, INDEX) if name in os.environ}
    for name, text in numbers.items():
        if not text.isdecimal():
            raise QtxError(f"{name} is {text!r}: expected a number")
    try:
        jax.distributed.initialize(
            num_processes=int(numbers[COUNT]) if COUNT in numbers else None,
            process_id=int(numbers[INDEX]) if INDEX in numbers else None,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise QtxError(
            f"--distributed: cannot join other processes ({reason}): expected Slurm, Open MPI or a Cloud TPU, or "
            f"{ADDRESS}=HOST:PORT of process 0, {COUNT} and {INDEX} (0, 1, ...) in the environment of each process"
        ) from None


def is_main() -> bool:
    """Says whether this process is the one that writes and prints."""
    return jax.process_index() == 0
