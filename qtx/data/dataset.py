"""`Data`: records and the Grain pipelines that turn them into batches for training, calibration and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qtx.data.records import Records, endless
from qtx.data.tokenization import TextTokenizer
from qtx.data.workers import WorkerBatches
from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError
from qtx.losses.answers import Answers
from qtx.losses.choices import Choices

if TYPE_CHECKING:
    import grain


EVALUATION_SEED = 0
"""The seed of evaluation's masks, whatever the experiment's, so that all models answer the same questions."""


@dataclass(frozen=True)
class Data:
    """A loaded data set. The fields that do not apply to its kind (text or images) are None.

    Attributes:
      description: one line for people.
      training: random-access training records, `len` and `[index]`.
      held_out: the records for evaluation, in order.
      example: (record, generator) to one example, a dict of arrays without a batch axis.
      augment: (record, generator) to an augmented example, for training alone; None for no augmentation.
      mix: ([example, example], generator) to two mixed examples, for training alone; None for no mixing.
      vocab_size: V, the number that all token ids are below.
      sequence_length: T, tokens per example.
      token_types: the number that all token types are below.
      image_size: height and width in pixels.
      channels: image channels.
      pixels: the options of an image source by which an image of 8 bits becomes an example.
      classes: the names of the labels, in the order of their numbers.
      answers: the right answers to held-out questions.
      choices: the choices of held-out questions.
      tokenizer: the text's tokenizer, which a run keeps.
      digests: hashes of what the splits `training` and `held_out` hold, which change when any of it changes.
      reading_threads: threads that make batches ahead of training. One is best for records in memory, whose transforms
        hold the interpreter's lock; more hide the disk and decode images side by side.
      reading_processes: other processes that make training's batches, which stay the same; 0: this one makes them.
    """

    description: str
    training: Records = field(repr=False)
    held_out: Records = field(repr=False)
    example: Callable[[Any, np.random.Generator], Batch] = field(repr=False)
    augment: Callable[[Any, np.random.Generator], Batch] | None = field(default=None, repr=False)
    mix: Callable[[list[Batch], np.random.Generator], list[Batch]] | None = field(default=None, repr=False)
    vocab_size: int | None = None
    sequence_length: int | None = None
    token_types: int = 1
    image_size: int | None = None
    channels: int | None = None
    pixels: Mapping[str, Any] | None = field(default=None, repr=False)
    classes: tuple[str, ...] | None = field(default=None, repr=False)
    answers: Answers | None = field(default=None, repr=False)
    choices: Choices | None = field(default=None, repr=False)
    tokenizer: TextTokenizer | None = field(default=None, repr=False)
    digests: Mapping[str, str] = field(default_factory=dict, repr=False)
    reading_threads: int = 1
    reading_processes: int = 0

    @property
    def num_classes(self) -> int | None:
        """Returns the number of classes, which all labels are below; None without classes."""
        return None if self.classes is None else len(self.classes)

    def train(
        self, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1
    ) -> grain.DatasetIterator[Batch] | WorkerBatches:
        """Returns endless shuffled batches, reshuffled every epoch; `get_state` and `set_state` resume them exactly.

        Batch `b` of the run has the records from `b * batch_size` on of one endless order that depends on the seed
        alone; process `i` of `n` gets the `i`-th part of each batch, `batch_size / n` rows, so any number of processes
        sees the same global batches.

        Args:
          batch_size: rows of a batch over all processes.
          seed: decides the order, the masks and the augmentation.
          process_index: the index of this process.
          process_count: the number of processes.

        Raises:
          QtxError: when `batch_size` is not a positive multiple of `process_count` (of twice that with `mix`), or
            `seed` is negative.
        """
        batches = self._endless(self.augment or self.example, self.mix, batch_size, seed, process_index, process_count)
        if self.reading_processes:
            return WorkerBatches(batches, self.reading_processes)
        return iter(self._threaded(batches))

    def calibration(self, batch_size: int, seed: int) -> Iterable[Batch]:
        """Returns endless shuffled batches of training data, not augmented; every `iter` yields the same batches."""
        return self._threaded(self._endless(self.example, None, batch_size, seed))

    def evaluation(self, batch_size: int, process_index: int = 0, process_count: int = 1) -> Iterable[Batch]:
        """Returns batches of all held-out data in order, once, the same every time.

        The last batch is filled up with rows whose `weights` are all 0. Process `i` of `n` reads and gets the `i`-th
        part of `batch_size / n` rows of every batch.

        Args:
          batch_size: rows of a batch over all processes.
          process_index: the index of this process.
          process_count: the number of processes.

        Raises:
          QtxError: when `batch_size` is not a positive multiple of `process_count`.
        """
        import grain

        _check_batch_size(batch_size, process_count)
        count = len(self.held_out)

        def example(index: int, rng: np.random.Generator) -> Batch:
            made = self.example(self.held_out[index % count], rng)
            return made if index < count else {**made, "weights": np.zeros_like(made["weights"])}

        rows = grain.MapDataset.range(-(-count // batch_size) * batch_size).seed(EVALUATION_SEED).random_map(example)
        return self._threaded(rows.batch(batch_size // process_count)[process_index::process_count])

    def _endless(
        self,
        transform: Callable,
        mix: Callable | None,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ) -> grain.MapDataset[Batch]:
        _check_batch_size(batch_size, process_count)
        if seed < 0:
            raise QtxError(f"seed is {seed}: expected 0 or more")
        # The random map comes before batching and slicing: its generator is keyed by the index in the endless order,
        # so an example does not depend on the batch size or on how many processes share the work.
        examples = endless(self.training, seed).random_map(transform)
        rows = batch_size // process_count
        if mix is None:
            batches = examples.batch(rows)
        elif rows % 2:
            raise QtxError(
                f"batch size {batch_size} over {process_count} process(es): Mixup and CutMix need an even part of it, "
                "for they mix pairs of images"
            )
        else:
            # Pairs of the endless order, like its examples, depend on neither batch size nor processes.
            batches = examples.batch(2, batch_fn=list).random_map(mix).batch(rows // 2, batch_fn=_stack_pairs)
        return batches[process_index::process_count]

    def _threaded(self, batches: grain.MapDataset[Batch]) -> grain.IterDataset[Batch]:
        import grain

        ahead = max(4, self.reading_threads)
        return batches.to_iter_dataset(grain.ReadOptions(self.reading_threads, prefetch_buffer_size=ahead))


def _check_batch_size(batch_size: int, process_count: int) -> None:
    if batch_size < 1 or batch_size % process_count:
        raise QtxError(f"batch size {batch_size}: expected a positive multiple of the {process_count} process(es)")


def _stack_pairs(pairs: Sequence[list[Batch]]) -> Batch:
    examples = [example for pair in pairs for example in pair]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}
