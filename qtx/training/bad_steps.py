"""Updates whose loss or gradient is not finite: the user's messages, and a file with the batch to look into."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected, read_npz, sealed_npz, write_whole
from qtx.training.step import BadSteps


def keep_batch(folder: Path, step: int, batch: Mapping[str, np.ndarray]) -> Path:
    """Writes this process's part of the batch of update `step`; returns the file, an `.npz`."""
    process = f"_process_{jax.process_index()}" if jax.process_count() > 1 else ""
    path = folder / f"step_{step}{process}.npz"
    try:
        write_whole({path: sealed_npz(batch)})
    except OSError as error:
        raise QtxError(f"cannot keep the batch of step {step} in {path}: {error.strerror}") from error
    return path


def read_batch(path: str | Path) -> dict[str, np.ndarray]:
    """Returns a batch that `keep_batch` wrote.

    Raises:
      QtxError: if the file is missing, damaged, or not written by qtx.
    """
    return read_npz(Path(path), Expected("a batch that a run kept", "train again to keep it anew"))[0]


def ended(bad: BadSteps, batch: Path) -> QtxError:
    """Returns the error that ends a run after too many bad steps in a row; `batch` is the file of the last batch."""
    state = f"checkpoint {bad.last - 1}" if bad.last > 1 else "the initial one"
    rows = "" if bad.in_a_row == 1 else f", the last of {bad.in_a_row} in a row"
    return QtxError(
        f"loss or gradient is not finite at step {bad.last}{rows}: training stopped. The state before it is {state}, "
        f"its batch is {batch}; to leave bad batches out, go on with a higher "
        "config.training.max_bad_steps; else lower config.training.learning_rate or raise "
        "config.training.warmup_steps, and start in another --workdir"
    )


def skipped(bad: BadSteps) -> str:
    """Returns the warning about a bad step that does not end the run."""
    return f"loss or gradient is not finite at step {bad.last}: update skipped ({bad.total} in this run)"
