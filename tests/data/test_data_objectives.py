"""Every registered training objective, in one table: the arrays that its built-in source gives, and what they mean."""

from __future__ import annotations

import numpy as np
import pytest

from qtx.data import OBJECTIVES, SOURCES, DataConfig, load
from qtx.data.objectives import CausalLanguageModelling
from qtx.data.objectives.causal import causal_example
from qtx.data.sources.stdlib import Document, Stdlib
from qtx.foundation.errors import QtxError

from .samples import prose

BATCH = 4
FLOATS, INTEGERS, BOOLEANS = "float32", "int32", "bool"


# One row per objective: options of its built-in source, and an example's arrays.
EXAMPLES = {
    "mlm": (
        dict(sequence_length=32, vocab_size=150),
        {
            "tokens": (INTEGERS, (32,)),
            "mask": (BOOLEANS, (32,)),
            "positions": (INTEGERS, (5,)),  # ceil(.15 * 32)
            "labels": (INTEGERS, (5,)),
            "weights": (FLOATS, (5,)),
        },
    ),
    "clm": (
        dict(sequence_length=32, vocab_size=300),
        {
            "tokens": (INTEGERS, (32,)),
            "mask": (BOOLEANS, (32,)),
            "labels": (INTEGERS, (32,)),
            "weights": (FLOATS, (32,)),
        },
    ),
    "distill": (
        dict(sequence_length=32, vocab_size=150),
        {"tokens": (INTEGERS, (32,)), "mask": (BOOLEANS, (32,)), "weights": (FLOATS, ())},
    ),
    "sequence_classification": (
        dict(sequence_length=32, vocab_size=150),
        {
            "tokens": (INTEGERS, (32,)),
            "mask": (BOOLEANS, (32,)),
            "labels": (INTEGERS, ()),
            "weights": (FLOATS, ()),
        },
    ),
    "sequence_regression": (
        dict(sequence_length=32, vocab_size=150),
        {
            "tokens": (INTEGERS, (32,)),
            "mask": (BOOLEANS, (32,)),
            "labels": (FLOATS, (1,)),
            "weights": (FLOATS, ()),
        },
    ),
    "multi_label_classification": (
        dict(sequence_length=32, vocab_size=150),
        {
            "tokens": (INTEGERS, (32,)),
            "mask": (BOOLEANS, (32,)),
            "labels": (FLOATS, (4,)),
            "weights": (FLOATS, ()),
        },
    ),
    "token_classification": (
        dict(sequence_length=32, vocab_size=150),
        {
            "tokens": (INTEGERS, (32,)),
            "mask": (BOOLEANS, (32,)),
            "labels": (INTEGERS, (32,)),
            "weights": (FLOATS, (32,)),
        },
    ),
    "question_answering": (
        dict(sequence_length=32, vocab_size=150),
        {
            "tokens": (INTEGERS, (32,)),
            "token_types": (INTEGERS, (32,)),
            "mask": (BOOLEANS, (32,)),
            "context": (BOOLEANS, (32,)),
            "windows": (INTEGERS, ()),
            "labels": (INTEGERS, (2,)),
            "weights": (FLOATS, ()),
        },
    ),
    "choices": (
        dict(sequence_length=96, vocab_size=300),
        {
            "tokens": (INTEGERS, (96,)),
            "mask": (BOOLEANS, (96,)),
            "labels": (INTEGERS, (96,)),
            "weights": (FLOATS, (96,)),
            "choices": (INTEGERS, ()),
        },
    ),
    "classification": (
        dict(),
        {"images": (FLOATS, (8, 8, 1)), "labels": (INTEGERS, ()), "weights": (FLOATS, ())},
    ),
}


@pytest.fixture
def first_batch(monkeypatch):
    """objective -> (its data, the first batch for evaluation), of little text."""
    documents = tuple(Document(f"{('topic', 'module')[i % 2]} {i}", prose(i, 10)) for i in range(600))
    monkeypatch.setattr("qtx.data.sources.stdlib.stdlib_documents", lambda: documents)

    def first(objective, **options):
        source = next(iter(OBJECTIVES[objective].built_in_sources.values()))
        data = load(DataConfig(SOURCES[source](**EXAMPLES[objective][0], **options)), objective)
        return data, next(iter(data.evaluation(BATCH)))

    return first


def test_every_objective_has_a_row():
    assert set(EXAMPLES) == set(OBJECTIVES)


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_the_built_in_source_gives_the_promised_arrays(objective, first_batch):
    _, batch = first_batch(objective)
    expected = {name: (kind, (BATCH, *shape)) for name, (kind, shape) in EXAMPLES[objective][1].items()}
    assert {name: (array.dtype.name, array.shape) for name, array in batch.items()} == expected
    weights = batch["weights"].reshape(BATCH, -1)
    assert weights.any(axis=1).all() and (objective in ("choices", "token_classification") or weights.all())


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_labels_are_of_the_block(objective, first_batch):
    data, batch = first_batch(objective)
    if objective == "mlm":
        blocks = batch["tokens"].copy()
        np.put_along_axis(blocks, batch["positions"], batch["labels"], axis=1)
        assert (blocks != batch["tokens"]).any()
    else:
        blocks = np.concatenate([batch["tokens"], batch["labels"][:, -1:]], axis=1)
        np.testing.assert_array_equal(batch["labels"][:, :-1], batch["tokens"][:, 1:])
    np.testing.assert_array_equal(blocks, [data.held_out[i] for i in range(BATCH)])


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_whose_document_the_token_between_two_belongs_to(objective, first_batch):
    """A segment begins after `[SEP]`, but at `</s>`."""
    data, batch = first_batch(objective, document_attention=True)
    found = 0
    for row, segments in enumerate(batch["segments"]):
        ends = np.flatnonzero(data.held_out[row][1:32] == data.tokenizer.end) + 1
        begins = np.flatnonzero(np.diff(segments)) + 1
        np.testing.assert_array_equal(begins, [i + (objective == "mlm") for i in ends if i + (objective == "mlm") < 32])
        found += len(begins)
    assert found


def test_a_causal_example_predicts_the_next_token():
    example = causal_example(np.arange(9, dtype=np.int32))
    np.testing.assert_array_equal(example["tokens"], np.arange(8))
    np.testing.assert_array_equal(example["labels"], np.arange(1, 9))
    assert example["weights"].sum() == 8 and example["weights"].dtype == np.float32
    assert example["mask"].all() and example["mask"].dtype == bool


def test_sources_serve_a_kind_of_objectives_and_bigram_backcopy_one(monkeypatch):
    class AnotherCausal(CausalLanguageModelling):
        pass

    monkeypatch.setitem(OBJECTIVES, "another", AnotherCausal())
    serving = {name: {source for source, cls in SOURCES.items() if cls.serves(o)} for name, o in OBJECTIVES.items()}
    text, images = {"stdlib", "text_files", "text_corpus"}, {"digits", "idx", "image_folder", "image_corpus"}
    kinds = ("text_labels", "token_labels", "questions", "choices")
    labelled, words, asked, chosen = ({source, "stdlib_labels"} for source in kinds)
    windows = text | {"text_windows"}
    expected = {
        **{"mlm": text, "another": windows, "clm": windows | {"bigram_backcopy"}, "classification": images},
        **{"distill": windows | labelled | words | asked | chosen | images | {"photographs"}, "choices": chosen},
        **{
            "sequence_classification": labelled,
            "sequence_regression": labelled,
            "multi_label_classification": labelled,
        },
        **{"token_classification": words, "question_answering": asked},
    }
    assert {name: serving[name] for name in expected} == expected
    assert all(serving.values())


def test_an_objective_of_another_kind_has_no_options_of_text():
    with pytest.raises(
        QtxError, match=r"'stdlib' serves objective mlm or clm or distill(?: or \w+)*, not 'classification': expect"
    ):
        DataConfig(Stdlib()).resolved("classification")
