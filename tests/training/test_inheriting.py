"""What a run starts from is inherited: the attention with its length, and the data where no source is named."""

from __future__ import annotations

import pytest

from qtx.cli.flags import parse
from qtx.experiment import default, read, record
from qtx.families import FAMILIES
from qtx.foundation.errors import QtxError
from qtx.pipeline.inheritance import inheriting
from qtx.training import RunFolder
from qtx.training.run_folder import IDENTITY

FILES = ("books/*.txt",)


def run_of(folder, family="bert", variant="softmax", objective="distill", **data):
    """A run's record, its data of an option each."""
    config = default(family, variant)
    config.objective = objective
    config.model.head = FAMILIES[family].heads.get(objective, config.model.head)
    config.data.update(data)
    RunFolder(folder).claim({**record(read(config)), IDENTITY: {}})
    return str(folder)


def started(start, family="bert", variant="softmax", objective="distill", named=(), **data):
    """The experiment of a config file that says these of its data, and starts there."""
    config = default(family, variant)
    config.objective, config.start = objective, start
    config.data.update(data)
    return read(inheriting(config, named))


BOOKS = {"source": "text_files", "files": FILES, "sequence_length": 64}
CASES = {
    "nothing": ({}, {}, {"files": FILES, "sequence_length": 64, "min_length": None}),
    "texts of all lengths": ({"min_length": 16}, {}, {"files": FILES, "sequence_length": 64, "min_length": 16}),
    "another length": ({"sequence_length": 32}, {}, {"files": FILES, "sequence_length": 32}),
    "the start's have theirs": ({}, {"min_length": 8}, {"min_length": 8}),
    "none of them": ({"sequence_length": 32}, {"min_length": 8, "sequence_length": 96}, {"min_length": 8}),
}


@pytest.mark.parametrize("said, there, expected", CASES.values(), ids=CASES)
def test_the_data_are_the_starts_where_no_source_is_named(tmp_path, said, there, expected):
    source = started(run_of(tmp_path, **{**BOOKS, **there}), **said).data.source
    assert {option: getattr(source, option) for option in expected} == expected


def test_a_source_that_is_named_stays(tmp_path):
    start = run_of(tmp_path, **BOOKS)
    assert started(start, named=["data.source"]).data.name == "stdlib"
    other = {"source": "text_labels", "files": ("a.tsv",)}
    assert started(start, **other).data.source.files == ("a.tsv",)
    assert started(start, named=["data.files"], files=("b.txt",)).data.source.files == ("b.txt",)


@pytest.mark.parametrize("objective", ["distill", "sequence_classification"])
def test_what_the_starts_source_does_not_take_was_said_of_another(tmp_path, objective):
    """A classifier's texts have their own lengths, whatever it was measured by."""
    start = run_of(tmp_path, objective=objective, source="text_labels", files=("a.tsv",))
    assert started(start, min_length=16).data.source.files == ("a.tsv",)
    with pytest.raises(QtxError, match="min_length is set, but source 'text_labels' does not take it"):
        started(start, named=["data.min_length"], min_length=16)


def test_data_that_do_not_serve_the_objective_are_not_taken(tmp_path):
    start = run_of(tmp_path, source="text_labels", files=("a.tsv",))
    assert started(start, objective="mlm").data.name == "stdlib"
    masked = run_of(tmp_path / "masked", objective="mlm", mask_probability=0.4, **BOOKS)
    source = started(masked).data.source  # which masks nothing
    assert source.files == FILES and source.mask_probability is None


def test_the_command_line_says_so(tmp_path):
    start = run_of(tmp_path / "start", **BOOKS)
    arguments = ["--config=heal_bert", f"--config.start={start}"]
    assert read(parse(arguments)[0]).data.source.files == FILES
    assert read(parse([*arguments, "--config.data.source=stdlib"])[0]).data.name == "stdlib"


def test_a_length_that_the_attention_is_relative_to_is_the_starts(tmp_path):
    plain = run_of(tmp_path / "plain", sequence_length=64)
    clipped = run_of(tmp_path / "clipped", variant="clipped_softmax", sequence_length=64)
    for variant in ("softmax", "clipped_softmax"):  # named or not
        found = started(clipped, variant=variant, sequence_length=32)
        assert found.model.attention.normalizer.length == 64 and found.data.source.sequence_length == 32
    found = started(plain, variant="clipped_softmax", sequence_length=32)
    assert found.model.attention.normalizer.length == 32
    with pytest.raises(QtxError, match="keep the attention it was trained with"):
        started(clipped, variant="clipped_softmax,length=32")
