"""The order in which records are read: by how many processes it may, with pairs mixed and corpora mixed by weight."""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from qtx.data.augmentation import Mixing
from qtx.data.dataset import Data
from qtx.data.records import Concatenated, Mixture
from qtx.foundation.errors import QtxError

BATCH = 8


@dataclass
class Recording:
    """Records that remember which of them were read."""

    count: int
    first: int = 0
    read: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        self.read.append(index)
        return self.first + index


def example(record: int, rng: np.random.Generator):
    image = np.full((4, 4, 1), record, np.float32)
    return {"images": image, "labels": np.int32(record), "draw": rng.random(), "weights": np.float32(1)}


class Broken(Recording):
    def __init__(self):
        super().__init__(20)

    def __getitem__(self, index: int) -> int:
        raise QtxError("this record is damaged")


READING = """
import multiprocessing
import numpy as np
from qtx.data import Data

if __name__ == "__main__":
    records = np.arange(20)
    data = Data("test", records, records, lambda record, rng: {"labels": record, "weights": 1.0}, reading_processes=2)
    iterator = data.train(4, 0)
    for _ in range(4):
        next(iterator)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    while True:
        next(iterator)
"""


def alive(process: int) -> bool:
    """Whether it runs: one that has ended and is not waited for is a zombie, of state Z."""
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def make(training=None, held_out=None, **fields) -> Data:
    return Data("test", training or Recording(20), held_out or Recording(11), example, **fields)


# Plain records, pairs that are mixed, corpora that are mixed.
DATA = {
    "plain": lambda: make(),
    "pairs": lambda: make(mix=Mixing(mixup=0.5, cutmix=1.0)),
    "corpora": lambda: make(Mixture([Recording(20), Recording(7, first=100)], (1.0, 2.0))),
    "corpora and pairs": lambda: make(Mixture([Recording(20), Recording(7, 100)], (1, 2)), mix=Mixing(mixup=0.5)),
}


@pytest.fixture(params=sorted(DATA))
def data(request) -> Data:
    return DATA[request.param]()


def take(iterator, count: int) -> list:
    return list(itertools.islice(iterator, count))


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def joined(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_a_state_saved_by_many_processes_resumes_on_any_number(data, processes):
    whole = take(data.train(BATCH, 3), 9)
    iterators = [data.train(BATCH, 3, i, processes) for i in range(processes)]
    for _ in range(5):
        parts = [next(iterator) for iterator in iterators]
    assert_equal(joined(parts), whole[4])
    states = [iterator.get_state() for iterator in iterators]
    assert all(state == states[0] for state in states)
    state = json.loads(json.dumps(states[0]))
    for count in (1, 2, 4):
        resumed = [data.train(BATCH, 3, i, count) for i in range(count)]
        for iterator in resumed:
            iterator.set_state(state)
        for expected in whole[5:]:
            assert_equal(joined([next(iterator) for iterator in resumed]), expected)


@pytest.mark.slow
def test_a_batch_of_another_size_has_the_same_rows(data):
    small, large = (joined(take(data.train(size, 3), 48 // size)) for size in (4, 12))
    assert_equal(small, large)


def test_a_process_reads_only_its_rows():
    for index in range(4):
        records = Recording(800)
        data = make(records)
        own = joined(take(data.train(BATCH, 0, index, 4), 10))
        rows, ahead = 10 * BATCH // 4, 4 * BATCH // 4
        assert records.read[:rows] == own["labels"].tolist()
        assert len(records.read) <= rows + 2 * ahead
    everything = [joined(take(data.train(BATCH, 0, i, 4), 10))["labels"] for i in range(4)]
    assert len(set(np.concatenate(everything).tolist())) == 80


def test_a_process_evaluates_only_its_rows():
    data = make()
    whole = list(data.evaluation(4))
    parts = []
    for index in range(2):
        records = Recording(11)
        parts.append(list(make(held_out=records).evaluation(4, index, 2)))
        real = [i for batch in range(3) for i in (4 * batch + 2 * index, 4 * batch + 2 * index + 1)]
        assert sorted(set(records.read)) == sorted({i % 11 for i in real})
    assert [len(part) for part in parts] == [3, 3]
    for expected, *both in zip(whole, *parts, strict=True):
        assert_equal(joined(both), expected)
    assert joined(whole)["weights"].tolist() == [1] * 11 + [0]


def test_pairs_are_two_neighbours_of_the_endless_order():
    data = make(mix=Mixing(mixup=1.0))
    plain = joined(take(make().train(BATCH, 0), 3))
    mixed = joined(take(data.train(BATCH, 0), 3))
    np.testing.assert_array_equal(mixed["labels"], plain["labels"])
    partner = plain["labels"].reshape(-1, 2)[:, ::-1].ravel()
    np.testing.assert_array_equal(mixed["mixed_labels"], partner)
    share = mixed["mixed_share"]
    pixels = plain["labels"] * (1 - share) + partner * share
    np.testing.assert_allclose(mixed["images"][:, 0, 0, 0], pixels, atol=1e-4)
    assert 0.2 < share.mean() < 0.8


def test_pairs_need_an_even_part_and_are_for_training_alone():
    data = make(mix=Mixing(mixup=1.0))
    for size, processes in ((3, 1), (6, 2)):
        with pytest.raises(QtxError, match=f"batch size {size} over {processes} process.*even"):
            data.train(size, 0, 0, processes)
    for batch in (next(iter(data.calibration(3, 0))), next(iter(data.evaluation(3)))):
        assert "mixed_labels" not in batch


def test_corpora_are_drawn_by_weight_and_each_repeats_on_its_own():
    parts = [Recording(40), Recording(10, first=100), Recording(10, first=200)]
    labels = joined(take(make(Mixture(parts, (1.0, 2.0, 1.0))).train(BATCH, 0), 10))["labels"]
    counts = Counter((labels // 100).tolist())
    assert counts == {0: 20, 1: 40, 2: 20}
    epochs = labels[labels // 100 == 1].reshape(4, 10)
    assert {tuple(sorted(epoch)) for epoch in epochs.tolist()} == {tuple(range(100, 110))}
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4
    other = labels[labels // 100 == 2].reshape(2, 10) - 200
    assert not np.array_equal(other, epochs[:2] - 100)  # corpora of one size have orders of their own


def test_without_weights_an_epoch_is_every_record_of_all_corpora_once():
    data = make(Concatenated([Recording(5), Recording(11, first=100)]))
    labels = joined(take(data.train(BATCH, 0), 4))["labels"].reshape(2, 16)
    for epoch in labels:
        assert sorted(epoch) == [*range(5), *range(100, 111)]
    assert not np.array_equal(labels[0], labels[1])


def test_concatenated_records_are_found_by_index():
    records = Concatenated([Recording(2), Recording(1, 10), Recording(3, 20)])
    assert [records[i] for i in range(len(records))] == [0, 1, 10, 20, 21, 22]


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 4])
def test_the_number_of_threads_changes_nothing(data, threads):
    first = take(data.train(BATCH, 3), 6)
    other = take(dataclasses.replace(data, reading_threads=threads).train(BATCH, 3), 6)
    for a, b in zip(first, other, strict=True):
        assert_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "corpora and pairs"])
def test_batches_of_other_processes_are_the_same_and_go_on_at_any_state(kind):
    data = DATA[kind]()
    whole = take(data.train(BATCH, 3), 9)
    iterator = dataclasses.replace(data, reading_processes=2).train(BATCH, 3)
    for expected in whole[:5]:
        assert_equal(next(iterator), expected)
    state = json.loads(json.dumps(iterator.get_state()))
    next(iterator)
    for resumed in (iterator, data.train(BATCH, 3)):
        resumed.set_state(state)
        for expected in whole[5:]:
            assert_equal(next(resumed), expected)
    iterator.close()


@pytest.mark.slow
def test_what_is_wrong_with_a_record_is_told_by_the_process_that_meets_it():
    iterator = dataclasses.replace(make(Broken()), reading_processes=1).train(BATCH, 3)
    with pytest.raises(QtxError, match="this record is damaged"):
        next(iterator)
    iterator.close()


@pytest.mark.slow
def test_a_process_that_dies_is_told_of_and_none_outlives_a_killed_training(tmp_path):
    program = tmp_path / "reading.py"
    program.write_text(READING)
    running = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True)
    workers = [int(word) for word in running.stdout.readline().split()]
    assert len(workers) == 2
    running.kill()
    running.communicate()
    deadline = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, workers))

    iterator = dataclasses.replace(make(), reading_processes=1).train(BATCH, 3)
    next(iterator)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(QtxError, match="a process that reads data has died"):
        take(iterator, 100)
    iterator.close()
