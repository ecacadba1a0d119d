"""The batches of a run: where it is in the data, and what it is measured on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from jax.sharding import Mesh

from qtx.foundation.batch import Batch
from qtx.training.config import TrainingConfig
from qtx.training.distillation import Teacher
from qtx.training.sharding import batch_shards, shard_process_batch

# Examples that a monitor sees: it looks at every attention map, so a whole batch could exceed the memory.
MONITOR_EXAMPLES = 16


class Feed:
    """The training batches in their order, and the held-out ones, on the mesh.

    Args:
      data: see `qtx.training.fit`.
      training: the sizes of batches.
      seed: of the order.
      mesh: the devices.
      part: (index, count), this process's part of every batch; see `qtx.training.sharding.process_part`.
      teacher: puts its outputs beside every batch; None: there is none.

    Attributes:
      start: the position before the first update.
      example: this process's part of the first batch, on the host.
      positions: update (from 1) -> the position before its batch; cleared by whoever has no more need of it.
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
        """Ends what reads ahead, if the iterator has a way to."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()

    @property
    def position(self) -> Any:
        """Of the next training batch."""
        return self._iterator.get_state()

    def go_to(self, position: Any) -> None:
        """Makes the batch at a position the next one."""
        self._iterator.set_state(position)

    def batch(self, step: int) -> Batch:
        """The next training batch, which is that of update `step`."""
        self.positions[step] = self.position
        batch = shard_process_batch(self._mesh, next(self._iterator))
        return batch if self._teacher is None else self._teacher.targets(batch)

    def batch_again(self, step: int) -> Batch:
        """This process's part of the batch of an update in `positions`, on the host; the one after it is the next."""
        self.go_to(self.positions[step])
        return next(self._iterator)

    def held_out(self) -> Iterator[Batch]:
        """The batches of an evaluation, as large as one microbatch, since that fits in memory."""
        microbatch = self._training.batch_size // self._training.accumulation_steps
        return itertools.islice(self._held_out(microbatch), self._training.eval_batches)

    def few_held_out(self) -> Batch:
        """The `MONITOR_EXAMPLES` first held-out examples, or as many more as make equal parts."""
        shards = batch_shards(self._mesh)
        return next(self._held_out(-(-MONITOR_EXAMPLES // shards) * shards))

    def _held_out(self, batch_size: int) -> Iterator[Batch]:
        batches = (shard_process_batch(self._mesh, batch) for batch in self._data.evaluation(batch_size, *self._part))
        return batches if self._teacher is None else map(self._teacher.outputs, batches)
