"""`Data`: records and the Grain pipelines that turn them into batches for training, calibration and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import grain
import numpy as np

from qtx.data.tokenization import TextTokenizer
from qtx.errors import QtxError

Batch = dict[str, np.ndarray]
"""Arrays of static shape with a leading batch axis; `weights` 0 marks what the loss ignores."""


class Records(Protocol):
    """Random access to what a source holds; a numpy array is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


EVALUATION_SEED = 0
"""Evaluation draws its masks from this seed, whatever the experiment's: two models answer the same questions."""


@dataclass(frozen=True)
class Data:
    """A loaded data set. The fields that do not apply to its kind (text or images) are None.

    Attributes:
      description: one line for people.
      training: random-access training records, `len` and `[index]`.
      held_out: the records for evaluation, in order.
      example: (record, generator) to one example, a dict of arrays without a batch axis.
      augment: (record, generator) to a record, for training alone; None for no augmentation.
      vocab_size: token ids are below it.
      sequence_length: T, tokens per example.
      image_size: height and width in pixels.
      channels: image channels.
      num_classes: labels are below it.
      tokenizer: the text's tokenizer, to save with a run.
    """

    description: str
    training: Records = field(repr=False)
    held_out: Records = field(repr=False)
    example: Callable[[Any, np.random.Generator], Batch] = field(repr=False)
    augment: Callable[[Any, np.random.Generator], Any] | None = field(default=None, repr=False)
    vocab_size: int | None = None
    sequence_length: int | None = None
    image_size: int | None = None
    channels: int | None = None
    num_classes: int | None = None
    tokenizer: TextTokenizer | None = field(default=None, repr=False)

    def train(
        self, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1
    ) -> grain.DatasetIterator[Batch]:
        """Endless shuffled batches, reshuffled every epoch; `get_state` and `set_state` resume it exactly.

        Batch `b` of the run is records `b * batch_size` and following of one endless order that depends on the seed
        alone; process `i` of `n` gets its `i`-th part of `batch_size / n` rows, so any number of processes sees
        the same global batches.

        Args:
          batch_size: rows over all processes.
          seed: decides the order, the masks and the augmentation.
          process_index: this process.
          process_count: all processes.

        Raises:
          QtxError: when `batch_size` is not a positive multiple of `process_count`, or `seed` is negative.
        """
        return iter(self._endless(self._augmented, batch_size, seed, process_index, process_count))

    def calibration(self, batch_size: int, seed: int) -> Iterable[Batch]:
        """Endless shuffled batches of training data without augmentation; each `iter` starts again, the same."""
        return self._endless(self.example, batch_size, seed, 0, 1)

    def evaluation(self, batch_size: int) -> Iterable[Batch]:
        """All held-out data in order, once, the same every time.

        The last batch is filled up with copies of its first row whose `weights` are all 0.
        """
        _check_batch_size(batch_size, 1)

        def fill(examples: Sequence[Batch]) -> Batch:
            missing = batch_size - len(examples)
            blank = {**examples[0], "weights": np.zeros_like(examples[0]["weights"])}
            rows = [*examples, *[blank] * missing]
            return {name: np.stack([row[name] for row in rows]) for name in blank}

        records = grain.MapDataset.source(self.held_out).seed(EVALUATION_SEED)
        return _threaded(records.random_map(self.example).batch(batch_size, batch_fn=fill))

    def _augmented(self, record: Any, rng: np.random.Generator) -> Batch:
        return self.example(record if self.augment is None else self.augment(record, rng), rng)

    def _endless(
        self, transform: Callable, batch_size: int, seed: int, process_index: int, process_count: int
    ) -> grain.IterDataset[Batch]:
        _check_batch_size(batch_size, process_count)
        if seed < 0:
            raise QtxError(f"seed is {seed}: expected 0 or more")
        # The random map comes before batching and slicing: its generator is keyed by the index in the endless order,
        # so an example does not depend on the batch size or on how many processes share the work.
        records = grain.MapDataset.source(self.training).seed(seed).shuffle().repeat().random_map(transform)
        return _threaded(records.batch(batch_size // process_count)[process_index::process_count])


def _check_batch_size(batch_size: int, process_count: int) -> None:
    if batch_size < 1 or batch_size % process_count:
        raise QtxError(f"batch size {batch_size}: expected a positive multiple of the {process_count} process(es)")


def _threaded(batches: grain.MapDataset[Batch]) -> grain.IterDataset[Batch]:
    # The records are in memory and the transforms hold the interpreter lock: one thread ahead of the consumer is best.
    return batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4))
