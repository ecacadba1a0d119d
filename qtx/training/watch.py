"""The choice of what is watched in a training run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from qtx.foundation.batch import Batch
from qtx.training.reporter import Monitor, Work


@dataclasses.dataclass(frozen=True)
class Watch:
    """The choice of what is watched in a run besides loss and examples per second; it does not change the run's result.

    Attributes:
      monitor: called every `training.outliers_every` updates, and first with the initial parameters if they are random;
        its numbers are logged as split "monitor".
      flops: batch (arrays, or their shapes) -> model FLOPs of its update, over all devices; None: unknown.
      peak_flops: FLOP/s that one device can do at best; None: unknown.
      profile: whether to trace a few steps to the folder's `profile/`.
    """

    monitor: Monitor | None = None
    flops: Callable[[Mapping[str, Any]], float] | None = None
    peak_flops: float | None = None
    profile: bool = False

    def work(self, batch_size: int, example: Batch, devices: int) -> Work:
        """Returns the work of an update of `batch_size` examples like those of `example`, over all devices."""
        batch = {n: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype) for n, x in example.items()}
        return Work(
            examples=batch_size,
            tokens=batch_size * example["tokens"].shape[1] if "tokens" in example else None,
            flops=self.flops(batch) if self.flops else None,
            peak_flops=self.peak_flops * devices if self.peak_flops else None,
        )
