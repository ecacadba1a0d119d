"""Every registered source, in one table: batches, determinism, resuming, sharding over processes, refused options."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from qtx.data import OBJECTIVES, SOURCES, DataConfig, load
from qtx.data.sources import BigramBackcopy, Idx, TextFiles
from qtx.foundation.config import field_types, read_section, section
from qtx.foundation.errors import QtxError

from .samples import (
    write_archive,
    write_choices,
    write_idx_folder,
    write_images,
    write_labels,
    write_questions,
    write_texts,
    write_words,
)

BATCH = 8


def idx_options(folder):
    write_idx_folder(folder / "idx", compress=True)
    return dict(path=str(folder / "idx"), random_crop=1, flip=True)


# One row per source: its options, given a folder for its input, and an objective.
CASES = {
    "stdlib": (lambda folder: dict(sequence_length=32, vocab_size=1000), "mlm"),
    "text_files": (
        lambda folder: dict(files=(f"{write_texts(folder / 'texts')}/*.txt",), sequence_length=16, vocab_size=300),
        "clm",
    ),
    "text_windows": (
        lambda folder: dict(
            files=(f"{write_texts(folder / 'texts')}/*.txt",), sequence_length=16, stride=5, vocab_size=300
        ),
        "clm",
    ),
    "choices": (
        lambda folder: dict(files=(str(write_choices(folder / "a.jsonl")),), sequence_length=48, vocab_size=300),
        "choices",
    ),
    "text_corpus": (
        lambda folder: dict(
            corpora=(str(write_texts(folder / "texts")), f"{folder}/texts/[0-4].txt"),
            weights=(1.0, 3.0),
            held_out_fraction=0.3,
            sequence_length=32,
            vocab_size=150,
            data_dir=str(folder / "tfds"),
        ),
        "mlm",
    ),
    "text_labels": (
        lambda folder: dict(files=(str(write_labels(folder / "a.jsonl")),), sequence_length=16, vocab_size=150),
        "sequence_classification",
    ),
    "token_labels": (
        lambda folder: dict(files=(str(write_words(folder / "a.conll")),), sequence_length=16, vocab_size=150),
        "token_classification",
    ),
    "questions": (
        lambda folder: dict(files=(str(write_questions(folder / "a.json")),), sequence_length=32, vocab_size=150),
        "question_answering",
    ),
    "stdlib_labels": (lambda folder: dict(sequence_length=16, vocab_size=300), "sequence_classification"),
    "digits": (lambda folder: dict(random_crop=1), "classification"),
    "idx": (idx_options, "classification"),
    "image_folder": (
        lambda folder: dict(path=str(write_archive(write_images(folder / "images"))), flip=True),
        "classification",
    ),
    "image_corpus": (
        lambda folder: dict(
            corpus=str(write_images(folder / "images")), image_size=8, flip=True, data_dir=str(folder / "tfds")
        ),
        "classification",
    ),
    "photographs": (lambda folder: dict(image_size=12, flip=True), "distill"),
    "bigram_backcopy": (lambda folder: dict(sequence_length=16, vocab_size=20), "clm"),
}


OPTIONS = {name: {field.name for field in dataclasses.fields(cls)} for name, cls in SOURCES.items()}


@pytest.fixture(scope="module", params=sorted(CASES))
def case(request, tmp_path_factory):
    """(data, objective) of one row."""
    options, objective = CASES[request.param]
    config = DataConfig(SOURCES[request.param](**options(tmp_path_factory.mktemp(request.param))))
    return load(config, objective), objective


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def equal(first, second) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in first)


def take(batches, count: int) -> list:
    iterator = iter(batches)
    result = list(itertools.islice(iterator, count))
    if hasattr(iterator, "close"):
        iterator.close()
    return result


def test_every_source_has_a_row():
    assert set(CASES) == set(SOURCES)


def test_batches_have_the_promised_arrays(case):
    data, objective = case
    evaluation = data.evaluation(BATCH)
    for batches in (data.train(BATCH, 0), data.calibration(BATCH, 0), evaluation):
        batch = take(batches, 1)[0]
        shapes = {name: (array.dtype.name, array.shape) for name, array in batch.items()}
        length = data.sequence_length
        if "images" in batch:
            labels = {} if objective == "distill" else {"labels": ("int32", (BATCH,))}
            assert shapes == {
                "images": ("float32", (BATCH, data.image_size, data.image_size, data.channels)),
                "weights": ("float32", (BATCH,)),
                **labels,
            }
            assert (data.num_classes is None) == (not labels)
            assert not labels or (0 <= batch["labels"].min() and batch["labels"].max() < data.num_classes)
            assert (data.vocab_size, data.sequence_length, data.tokenizer) == (None, None, None)
        else:
            predicted = (
                (BATCH, length) if objective in ("clm", "choices", "token_classification") else batch["labels"].shape
            )
            expected = {
                "tokens": ("int32", (BATCH, length)),
                "mask": ("bool", (BATCH, length)),
                "labels": ("int32", predicted),
                "weights": ("float32", predicted),
            }
            if "bytes" in batch:  # text_windows
                expected |= {"bytes": ("int32", (BATCH,)), "words": ("int32", (BATCH,))}
            if objective == "choices":
                expected["choices"] = ("int32", (BATCH,))
            if objective == "mlm":
                expected["positions"] = ("int32", predicted)
                assert predicted == (BATCH, 5)  # ceil(.15 * 32)
            if objective == "sequence_classification":
                assert predicted == (BATCH,) and set(batch["labels"]) <= set(range(data.num_classes))
            if objective == "question_answering":
                expected |= {"token_types": ("int32", (BATCH, length)), "context": ("bool", (BATCH, length))}
                expected |= {"windows": ("int32", (BATCH,)), "weights": ("float32", (BATCH,))}
                assert predicted == (BATCH, 2)
            assert shapes == expected
            assert 0 <= batch["tokens"].min() and batch["tokens"].max() < data.vocab_size
            assert (data.image_size, data.channels) == (None, None)
            assert (data.num_classes is None) == (objective not in ("sequence_classification", "token_classification"))
        real = min(BATCH, len(data.held_out)) if batches is evaluation else BATCH
        assert batch["weights"][:real].reshape(real, -1).any(axis=1).all()


def test_the_description_is_one_line(case):
    data, _ = case
    assert "\n" not in data.description and "held" in data.description


def test_same_seed_same_batches_and_another_seed_others(case):
    data, _ = case
    for batches in (data.train, data.calibration):
        first, again, other = (take(batches(BATCH, seed), 3) for seed in (7, 7, 8))
        for a, b in zip(first, again, strict=True):
            assert_equal(a, b)
        assert not equal(first[0], other[0])
        assert not equal(first[0], first[1])


def test_resuming_continues_as_if_never_stopped(case):
    data, _ = case
    steps = 2 * min(len(data.training), 100) // BATCH  # over the end of an epoch where the set is small
    whole = take(data.train(BATCH, 3), steps + 4)
    iterator = data.train(BATCH, 3)
    for _ in range(steps):
        next(iterator)
    state = iterator.get_state()
    next(iterator)
    iterator.close()
    resumed = data.train(BATCH, 3)
    resumed.set_state(state)
    for expected, batch in zip(whole[steps:], take(resumed, 4), strict=True):
        assert_equal(expected, batch)


def test_processes_together_see_the_batches_of_one(case):
    data, _ = case
    whole = take(data.train(BATCH, 5), 3)
    parts = [take(data.train(BATCH, 5, process_index=i, process_count=4), 3) for i in range(4)]
    for b, expected in enumerate(whole):
        joined = {name: np.concatenate([part[b][name] for part in parts]) for name in expected}
        assert_equal(joined, expected)


def test_evaluation_is_all_held_out_data_once_and_the_same_again(case):
    data, _ = case
    size = 5
    first, again = list(data.evaluation(size)), list(data.evaluation(size))
    assert len(first) == -(-len(data.held_out) // size)
    for a, b in zip(first, again, strict=True):
        assert_equal(a, b)
    weights = np.concatenate([batch["weights"].reshape(size, -1) for batch in first])
    real = weights.any(axis=1)
    assert real[: len(data.held_out)].all() and not real[len(data.held_out) :].any()
    # In order: the labels (or images) of one pass do not depend on the batch size.
    name = "labels" if "labels" in first[0] else "images"
    labels = np.concatenate([batch[name] for batch in first])[real]
    singly = np.concatenate([batch[name] for batch in data.evaluation(1)])
    np.testing.assert_array_equal(labels, singly)


@pytest.mark.parametrize("case", ["digits", "idx", "image_folder", "image_corpus"], indirect=True)
def test_calibration_reads_training_data_without_augmentation(case):
    data, _ = case
    rng = np.random.default_rng(0)
    plain = {data.example(data.training[i], rng)["images"].tobytes() for i in range(len(data.training))}
    calibration = {image.tobytes() for batch in take(data.calibration(BATCH, 0), 4) for image in batch["images"]}
    training = {image.tobytes() for batch in take(data.train(BATCH, 0), 4) for image in batch["images"]}
    assert calibration <= plain
    assert not training <= plain


def test_an_epoch_is_every_record_once_and_the_next_is_shuffled_again(tmp_path):
    write_idx_folder(tmp_path / "idx", compress=False)
    data = load(DataConfig(Idx(path=str(tmp_path / "idx"))), "classification")
    images = np.concatenate([batch["images"] for batch in take(data.train(10, 0), 6)])
    epochs = [[image.tobytes() for image in images[i : i + 30]] for i in (0, 30)]
    assert len(set(epochs[0])) == 30 and set(epochs[0]) == set(epochs[1])
    assert epochs[0] != epochs[1]


def test_a_block_is_masked_anew_every_epoch(text_folder):
    config = DataConfig(
        TextFiles(files=(f"{text_folder}/*.txt",), sequence_length=64, vocab_size=150, mask_probability=0.5)
    )
    data = load(config, "mlm")
    count = len(data.training)
    batches = take(data.train(count, 0), 2)

    def positions(batch):  # by the block they belong to, known from its unmasked tokens
        restored = batch["tokens"].copy()
        np.put_along_axis(restored, batch["positions"], batch["labels"], axis=1)
        return {row.tobytes(): p.tolist() for row, p in zip(restored, batch["positions"], strict=True)}

    first, second = map(positions, batches)
    assert set(first) == set(second) == {block.tobytes() for block in data.training}
    assert all(first[block] != second[block] for block in first)


@pytest.mark.parametrize(("batch_size", "processes"), [(0, 1), (-4, 1), (6, 4)])
def test_batch_sizes_that_cannot_be(batch_size, processes):
    data = load(DataConfig(BigramBackcopy()), "clm")
    with pytest.raises(QtxError, match="batch size"):
        data.train(batch_size, 0, 0, processes)


def test_a_negative_seed_is_refused():
    data = load(DataConfig(BigramBackcopy()), "clm")
    with pytest.raises(QtxError, match="seed is -1"):
        data.train(4, -1)


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_options_of_other_sources_are_refused(source):
    values = {str: "x", int: 1, float: 1.0, bool: True, tuple: ("x",)}
    shown = section(DataConfig())
    assert set(shown) == set().union(*OPTIONS.values()) | {"source"}
    for option in sorted(set(shown) - OPTIONS[source] - {"source"}):
        given = {"source": source, option: values[field_types(DataConfig)[option][0]]}
        owners = ", ".join(name for name in SOURCES if option in OPTIONS[name])
        message = f"config.data: {option} is set, but source '{source}' does not take it: it belongs to {owners}"
        with pytest.raises(QtxError, match=f"^{message}$"):
            read_section(DataConfig, given, "config.data")


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_options_are_all_documented(source):
    documentation = "".join(cls.__doc__ or "" for cls in SOURCES[source].__mro__)
    for option in OPTIONS[source]:
        assert f"\n      {option}: " in documentation


def test_config_section_and_back():
    config = DataConfig(TextFiles(files=("a", "b"), sequence_length=64, held_out_fraction=0.25))
    assert read_section(DataConfig, section(config), "config.data") == config
    with pytest.raises(QtxError, match="config.data: path is set"):
        read_section(DataConfig, {"source": "stdlib", "path": "x"}, "config.data")


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_objectives_that_do_not_fit(source):
    cls = SOURCES[source]
    fitting = {"path": "x"} if "path" in OPTIONS[source] else {}
    fitting |= {"files": ("x",)} if "files" in OPTIONS[source] else {}
    fitting |= {"corpora": ("x",)} if source == "text_corpus" else {}
    fitting |= {"corpus": "x"} if source == "image_corpus" else {}
    others = [name for name, objective in OBJECTIVES.items() if not cls.serves(objective)]
    assert 0 < len(others) < len(OBJECTIVES)
    for objective in others:
        with pytest.raises(QtxError, match=f"serves objective .*not '{objective}': expected one of .*"):
            load(DataConfig(SOURCES[source](**fitting)), objective)
    with pytest.raises(QtxError, match="unknown objective 'clmm': did you mean 'clm'"):
        load(DataConfig(SOURCES[source](**fitting)), "clmm")


def test_unknown_source_names_the_nearest():
    with pytest.raises(QtxError, match="unknown data source 'stdlb': did you mean 'stdlib'"):
        read_section(DataConfig, {"source": "stdlb"}, "config.data")
