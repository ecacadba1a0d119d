"""The batches of a run: those to train on, with the position in the data, and the held-out ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from jax.sharding import Mesh

from qtx.foundation.batch import Batch
from qtx.training.config import TrainingConfig
from qtx.training.distillation import Teacher
from qtx.training.sharding import batch_shards, shard_process_batch

# The number of examples that a monitor sees: it looks at every attention map, for which a batch may be too large.
MONITOR_EXAMPLES = 16


class Feed:
    """The training batches in their order, and the held-out ones, on the mesh.

    Args:
      data: see `qtx.training.fit`.
      training: the options, which say how large batches are.
      seed: the seed of the order of the data.
      mesh: the devices.
      part: (index, count), this process's part of every batch; see `qtx.training.sharding.process_part`.
      teacher: adds its outputs to every batch; None: no teacher.

    Attributes:
      start: the position before the first update.
      example: this process's part of the first batch, on the host.
      positions: update (from 1) -> the position before its batch; to be cleared by the caller once not needed.
    """

    def __init__(
        self,
        data: Any,
        training: TrainingConfig,
        seed: int,
        mesh: Mesh,
        part: tuple[int, int],
        teacher: Teacher | None = None,
    ):
        self._data, self._training, self._mesh, self._part, self._teacher = data, training, mesh, part, teacher
        self._iterator = data.train(training.batch_size, seed, *part)
        self.start = self.position
        self.example: Batch = next(self._iterator)
        self.go_to(self.start)
        self.positions: dict[int, Any] = {}

    def close(self) -> None:
        """Closes the training iterator, which may read ahead, if it has a `close`."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()

    @property
    def position(self) -> Any:
        """Returns the position of the next training batch."""
        return self._iterator.get_state()

    def go_to(self, position: Any) -> None:
        """Makes the batch at a position the next one."""
        self._iterator.set_state(position)

    def batch(self, step: int) -> Batch:
        """Returns the next training batch, which is that of update `step`."""
        self.positions[step] = self.position
        batch = shard_process_batch(self._mesh, next(self._iterator))
        return batch if self._teacher is None else self._teacher.targets(batch)

    def batch_again(self, step: int) -> Batch:
        """Returns this process's part of the batch of an update in `positions`, on the host; moves on to the next."""
        self.go_to(self.positions[step])
        return next(self._iterator)

    def held_out(self) -> Iterator[Batch]:
        """Returns the batches of an evaluation, as large as one microbatch, since that fits in memory."""
        microbatch = self._training.batch_size // self._training.accumulation_steps
        return itertools.islice(self._held_out(microbatch), self._training.eval_batches)

    def few_held_out(self) -> Batch:
        """Returns the first held-out examples: `MONITOR_EXAMPLES`, rounded up to a multiple of a batch's parts."""
        shards = batch_shards(self._mesh)
        return next(self._held_out(-(-MONITOR_EXAMPLES // shards) * shards))

    def _held_out(self, batch_size: int) -> Iterator[Batch]:
        batches = (shard_process_batch(self._mesh, batch) for batch in self._data.evaluation(batch_size, *self._part))
        return batches if self._teacher is None else map(self._teacher.outputs, batches)
