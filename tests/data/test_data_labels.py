"""Texts with labels: how they are read, cut, numbered and held out, and what is refused."""

from __future__ import annotations

import dataclasses
import gzip
import json
import lzma
from collections import Counter

import numpy as np
import pytest

from qtx.data import DataConfig, load
from qtx.data.objectives.sequence_classification import PADDING, padded
from qtx.data.reading import documents
from qtx.data.sources import TextLabels
from qtx.data.tables import LabelledText, dataset_texts, labelled_texts
from qtx.families import completed
from qtx.foundation.errors import QtxError
from qtx.models import BertConfig

from .samples import prose
from .tfds_samples import write_imdb_reviews

ROWS = [('a "quoted" text', "pos"), ("it's 5\" long", "neg"), ("", "pos"), ("caf\u00e9\u2028more", "neg")]


def table(rows, header=None, end="\n") -> bytes:
    lines = [*([header] if header else []), *("\t".join((label, str(i), text)) for i, (text, label) in enumerate(rows))]
    return (end.join(lines) + end).encode()


def objects(rows) -> bytes:
    lines = (json.dumps({"n": i, "text": text, "label": label}) for i, (text, label) in enumerate(rows))
    return "\n".join(lines).encode()


NUMBERED, NAMED = ("2", "0"), ("text", "label")
FORMS = {
    "numbered": ("a.tsv", table(ROWS), NUMBERED),
    "named": ("a.tsv", table(ROWS, "label\tn\ttext"), NAMED),
    "of another system": ("a.tsv", b"\xef\xbb\xbf" + table(ROWS, "label\tn\ttext", "\r\n"), NAMED),
    "xz": ("a.tsv.xz", lzma.compress(table(ROWS)), NUMBERED),
    "objects": ("a.jsonl", objects(ROWS), NAMED),
    "gz": ("a.jsonl.gz", gzip.compress(objects(ROWS)), NAMED),
}


@pytest.mark.parametrize(("name", "content", "columns"), FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_rows(tmp_path, name, content, columns):
    (tmp_path / name).write_bytes(content)
    assert list(labelled_texts(tmp_path / name, *columns)) == ROWS


def test_whole_numbers_are_labels(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": 1}\n{"text": "y", "label": 0}\n')
    assert [row.label for row in labelled_texts(tmp_path / "a.jsonl", "text", "label")] == ["1", "0"]


def test_halves_of_surrogate_pairs_in_texts_and_labels(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "cut \\ud83d", "label": "a"}\n{"text": "y", "label": "b\\udc80"}\n')
    rows = [LabelledText("cut \ufffd", "a"), LabelledText("y", "b\ufffd")]
    mended = Counter[str]()
    assert list(labelled_texts(tmp_path / "a.jsonl", "text", "label", mended=mended)) == rows and mended["halves"] == 2
    options = dict(files=(str(tmp_path / "a.jsonl"),), held_out_fraction=0.5, sequence_length=12)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nb")
    data = load(DataConfig(TextLabels(tokenizer=str(tmp_path / "vocab.txt"), **options)), "distill")
    assert data.description.endswith("; halves of surrogate pairs that became U+FFFD: 2")


REFUSED = {
    "another kind": ("a.csv", b"a,b\n", NAMED, "a.csv is no table: expected .tsv, .jsonl"),
    "no such name": ("a.tsv", table(ROWS), NAMED, "line 1: no column 'text', found pos, 0, a \"quoted\" text: set "),
    "no such number": ("a.tsv", table(ROWS), ("3", "0"), "line 1: no column '3', found 0, 1, 2: set data.text_column"),
    "a tab too many": ("a.tsv", b"x\ty\nx\ty\tz\n", ("1", "0"), "line 2: 3 columns, but 2 in line 1: expected as many"),
    "no label": ("a.tsv", b"x\ty\n \ty\n", ("1", "0"), "line 2: no label: expected one in column 0"),
    "no such key": ("a.jsonl", b'{"text": "x", "class": 1}', NAMED, "line 1: no column 'label', found text, class"),
    "no object": ("a.jsonl", b"[1]", NAMED, "line 1: expected an object with text and label"),
    "no JSON": ("a.jsonl", b"{", NAMED, "line 1: not JSON"),
    "text that is none": ("a.jsonl", b'{"text": 3, "label": 1}', NAMED, "line 1: text is '3': expected a text"),
    "a score": ("a.jsonl", b'{"text": "x", "label": 0.5}', NAMED, "line 1: label is '0.5': expected a text or a whole"),
    "a truth": ("a.jsonl", b'{"text": "x", "label": true}', NAMED, "line 1: label is 'True': expected a text or a who"),
}


@pytest.mark.parametrize(("name", "content", "columns", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_table_of_texts_with_labels_is_told_in_one_line(tmp_path, name, content, columns, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(QtxError) as error:
        list(labelled_texts(tmp_path / name, *columns))
    assert message in str(error.value) and "\n" not in str(error.value)


OPTIONS = {
    "no files": (dict(), "needs files: set data.files"),
    "two ways to hold out": (dict(files=("x",), validation_files=("y",), held_out_fraction=0.1), "both set"),
    "name and number": (
        dict(files=("x",), text_column="1", text_pair_column="b"),
        "'1' and 'b': expected names",
    ),
    "a class twice": (dict(files=("x",), classes=("a", "a")), "expected labels, each once"),
    "another fraction": (dict(files=("x",), held_out_fraction=0.6), "held_out_fraction is 0.6"),
}


@pytest.mark.parametrize(("options", "message"), OPTIONS.values(), ids=OPTIONS)
def test_options_that_cannot_be(options, message):
    with pytest.raises(QtxError, match=message):
        TextLabels(**options)


def labelled(folder, rows, name="a.tsv"):
    (folder / name).write_bytes(table(rows))
    return str(folder / name)


def loaded(file, objective="sequence_classification", **options):
    shape = dict(sequence_length=12, vocab_size=150)
    columns = dict(text_column=NUMBERED[0], label_column=NUMBERED[1])
    return load(DataConfig(TextLabels(files=(file,), **columns, **shape, **options)), objective)


SORTED = [(prose(i, 3 if i % 3 else 40).replace("\n", " "), "ab"[i >= 60]) for i in range(120)]
"""Texts of two lengths, all of one class before all of the other."""


def test_an_example_is_the_text_cut_or_padded_and_its_label(tmp_path):
    data = loaded(labelled(tmp_path, SORTED), validation_files=(labelled(tmp_path, SORTED[::7], "b.tsv"),))
    batch = next(iter(data.evaluation(len(SORTED[::7]))))
    tokenizer, found = data.tokenizer, {}
    for tokens, mask, label in zip(batch["tokens"], batch["mask"], batch["labels"], strict=True):
        length = int(mask.sum())
        assert mask[:length].all()
        assert (tokens[0], tokens[length - 1]) == (tokenizer.start, tokenizer.end)
        assert (tokens[length:] == tokenizer.pad).all()
        found[tuple(tokens[1 : length - 1].tolist())] = label
    ids = [tuple(text[:10].tolist()) for text in tokenizer.encode([text for text, _ in SORTED[::7]])]
    assert {len(text) < 10 for text in ids} == {True, False}
    assert found == {text: "ab".index(label) for text, (_, label) in zip(ids, SORTED[::7], strict=True)}
    assert (data.num_classes, data.sequence_length) == (2, 12)


def test_padding_is_told_by_no_token():
    tokens, mask = padded(np.array([2, 7, 2, 1, 2, PADDING, PADDING], np.int32), pad=1)
    assert tokens.tolist() == [2, 7, 2, 1, 2, 1, 1] and tokens.dtype == np.int32
    assert mask.tolist() == [True] * 5 + [False] * 2


def test_held_out_texts_are_in_no_order_and_copies_on_one_side(tmp_path):
    data = loaded(labelled(tmp_path, SORTED + SORTED[::2]), held_out_fraction=0.4)
    sides = [{block.tobytes() for block in split} for split in (data.training, data.held_out)]
    assert not sides[0] & sides[1]
    assert len(data.training) + len(data.held_out) == 180
    labels = data.held_out[:, -1]
    assert 0 < labels[: len(labels) // 4].mean() < 1


def test_labels_are_sorted_unless_the_config_says_so(tmp_path):
    file = labelled(tmp_path, SORTED)
    first, second = loaded(file), loaded(file, classes=("b", "c", "a"))
    assert (first.num_classes, second.num_classes) == (2, 3)
    np.testing.assert_array_equal(np.array([2, 0])[first.held_out[:, -1]], second.held_out[:, -1])


TEXTS = [text for text, _ in SORTED]
UNLABELLED = {
    "a table without a header": ("a.tsv", "\n".join(TEXTS), {"text_column": "0"}),
    "a table with a header": ("a.tsv", "\n".join(["text", *TEXTS]), {}),
    "objects": ("a.jsonl", "\n".join(json.dumps({"text": text}) for text in TEXTS), {}),
    "objects of which some have labels": (
        "a.jsonl",
        "\n".join(json.dumps({"text": text, **({"score": 1} if i < 3 else {})}) for i, text in enumerate(TEXTS)),
        {"label_column": "score"},
    ),
}


@pytest.mark.parametrize("name, content, options", UNLABELLED.values(), ids=UNLABELLED)
def test_what_is_distilled_needs_no_labels(tmp_path, name, content, options):
    (tmp_path / name).write_text(content)
    source = TextLabels(files=(str(tmp_path / name),), sequence_length=12, vocab_size=150, **options)
    data = load(DataConfig(source), "distill")
    assert len(data.training) + len(data.held_out) == len(TEXTS)
    with pytest.raises(QtxError, match="columns '0' and 'label': expected|no column 'label', found text: set|'score'"):
        load(DataConfig(source), "sequence_classification")


def test_another_label_is_other_data(tmp_path):
    first, second = loaded(labelled(tmp_path, SORTED)), loaded(labelled(tmp_path, [*SORTED[:-1], (SORTED[-1][0], "a")]))
    assert first.digests != second.digests


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([(text, "a") for text, _ in SORTED], {}, "only one class, a: expected texts with at least two labels"),
        (SORTED, {"classes": ("a", "c")}, "a.tsv, line 61: label 'b' is none of the classes a, c: correct it, or set"),
        ([SORTED[0]] * 3, {}, "only one text to split; set data.validation_files"),
        ([], {}, "no text in .*a.tsv: expected a file that is not empty"),
    ],
)
def test_labels_that_cannot_be(tmp_path, rows, options, message):
    (tmp_path / "a.tsv").write_bytes(table(rows) if rows else b"")
    with pytest.raises(QtxError, match=message):
        loaded(str(tmp_path / "a.tsv"), **options)


def test_a_held_out_label_that_is_not_in_training_is_refused(tmp_path):
    files = labelled(tmp_path, SORTED), labelled(tmp_path, [("x", "c")], "b.tsv")
    with pytest.raises(QtxError, match="b.tsv, line 1: label 'c' is none of the classes a, b: correct it, or set"):
        loaded(files[0], validation_files=(files[1],))


def test_what_is_taught_takes_the_texts_alone(tmp_path):
    rows = [(text, "a") for text, _ in SORTED]
    data = loaded(labelled(tmp_path, rows), "distill")
    batch = next(iter(data.evaluation(4)))
    assert batch.keys() == {"tokens", "mask", "weights"} and data.num_classes is None
    assert 0 < batch["mask"].mean() < 1


PAIRS = [("a question", 'its "answer"', "1"), ("another\u2028", "", "0"), ("a question", "more", "0")]
PAIR_FORMS = {
    "table": ("a.tsv", "".join("\t".join(row) + "\n" for row in PAIRS).encode(), ("0", "2", "1")),
    "objects": (
        "a.jsonl",
        "\n".join(json.dumps(dict(zip("abl", row, strict=True))) for row in PAIRS).encode(),
        ("a", "l", "b"),
    ),
}


@pytest.mark.parametrize(("name", "content", "columns"), PAIR_FORMS.values(), ids=PAIR_FORMS)
def test_every_form_gives_the_same_pairs(tmp_path, name, content, columns):
    (tmp_path / name).write_bytes(content)
    text, label, pair = columns
    assert list(labelled_texts(tmp_path / name, text, label, pair_column=pair)) == PAIRS
    assert [row.label for row in labelled_texts(tmp_path / name, text, label)] == [row[2] for row in PAIRS]
    with pytest.raises(QtxError, match="line 1: no column '[az]', found"):
        list(labelled_texts(tmp_path / name, "a", "l", pair_column="z"))


OBJECTIVES = {
    "sequence_classification": lambda i: "ab"[i % 2],
    "sequence_regression": lambda i: i / 4,
    "multi_label_classification": lambda i: ["ab"[i % 2]],
    "distill": str,
}


@pytest.mark.parametrize(("objective", "label"), OBJECTIVES.items(), ids=OBJECTIVES)
def test_an_example_of_a_pair_is_that_of_the_tokenizer_s_template_with_token_types(tmp_path, objective, label):
    """By the text alone, the example is that of the text alone."""
    texts = [(prose(i, 2 + i % 9).replace("\n", " "), prose(-i % 40, 1 + i % 13)) for i in range(40)]
    lines = [json.dumps({"text": a, "b": b, "label": label(i)}) for i, (a, b) in enumerate(texts)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    options = dict(files=(str(tmp_path / "a.jsonl"),), held_out_fraction=0.2, sequence_length=24, vocab_size=150)
    data = load(DataConfig(TextLabels(**options, text_pair_column="b")), objective)
    batch = next(iter(data.evaluation(len(data.held_out))))
    found, cut = {}, 0
    for tokens, types, mask in zip(*(batch[name] for name in ("tokens", "token_types", "mask")), strict=True):
        assert not types[~mask].any() and mask[: mask.sum()].all()
        found[tokens[mask].tobytes()] = types[mask].tolist()
    expected = {}
    for pair in texts:
        encoded = data.tokenizer.encode(pair)
        ids, types = data.tokenizer.template.around(encoded, 24)
        expected[ids.tobytes()] = types.tolist()
        cut += sum(map(len, encoded)) + 3 > 24
    assert found.items() <= expected.items() and len(found) > 5 and cut > 5
    assert "32 training and 8 held-out pairs, " in data.description and data.token_types == 2
    alone = load(DataConfig(TextLabels(**options, tokenizer=None)), objective)
    assert "token_types" not in next(iter(alone.evaluation(2))) and alone.token_types == 1
    assert alone.classes == data.classes and alone.digests != data.digests
    for name in ("labels", "weights") if objective != "distill" else ("weights",):
        assert batch[name].dtype == next(iter(alone.evaluation(2)))[name].dtype


def test_all_pairs_of_a_text_are_on_one_side_and_copies_of_a_pair_are_told(tmp_path):
    queries = [prose(i, 3)[:-1] for i in range(9)]
    rows = [(queries[i % 9], prose(i, 9).replace("\n", " "), "ab"[i % 2]) for i in range(60)]
    lines = ["\t".join(row) for row in rows]
    (tmp_path / "a.tsv").write_text("\n".join(lines))
    (tmp_path / "b.tsv").write_text("\n".join([*lines[:2], f"{queries[1]}\tan answer\ta"]))
    columns = dict(text_column="0", text_pair_column="1", label_column="2", sequence_length=64, vocab_size=150)
    source = TextLabels(files=(str(tmp_path / "a.tsv"),), **columns, held_out_fraction=0.3)
    data = load(DataConfig(source), "sequence_classification")
    known = [ids.tolist() for ids in data.tokenizer.encode(queries)]
    ends, splits = data.tokenizer.end, (data.training, data.held_out)
    sides = [{known.index(row[1 : row.tolist().index(ends)].tolist()) for row in split} for split in splits]
    assert sorted(map(len, sides)) == [3, 6] and not sides[0] & sides[1]
    validation = dataclasses.replace(source, validation_files=(str(tmp_path / "b.tsv"),), held_out_fraction=None)
    told = load(DataConfig(validation), "sequence_classification").description
    assert told.endswith("; held-out texts that are in training too: 2")


def test_a_model_of_one_token_type_is_told_of_a_tokenizer_of_two(tmp_path):
    lines = [f"{prose(i, 3)[:-1]}\t{prose(-i % 9, 2)[:-1]}\t{'ab'[i % 2]}" for i in range(9)]
    (tmp_path / "a.tsv").write_text("\n".join(lines))
    columns = dict(text_column="0", text_pair_column="1", label_column="2", sequence_length=16, vocab_size=80)
    data = load(DataConfig(TextLabels(files=(str(tmp_path / "a.tsv"),), **columns)), "sequence_classification")
    config = BertConfig(head="classification", type_vocab_size=1)
    with pytest.raises(
        QtxError, match="type_vocab_size is 1, but the tokenizer gives pairs of texts 2 token types: cho"
    ):
        completed(config, data)
    assert completed(dataclasses.replace(config, type_vocab_size=2), data).num_classes == 2


def test_a_tfds_dataset_by_its_name(tmp_path):
    write_imdb_reviews(tmp_path)
    options = dict(sequence_length=12, vocab_size=150, data_dir=str(tmp_path))
    data = load(DataConfig(TextLabels(files=("tfds:imdb_reviews/plain_text",), **options)), "sequence_classification")
    assert (len(data.training), len(data.held_out), data.num_classes) == (30, 10, 2)
    expected = {(prose(i, 20), ("neg", "pos")[i % 2]) for i in range(30)}
    assert set(dataset_texts("imdb_reviews/plain_text", False, "text", "label", str(tmp_path))) == expected
    fraction = TextLabels(files=("tfds:imdb_reviews/plain_text",), **options, held_out_fraction=0.5)
    assert len(load(DataConfig(fraction), "sequence_classification").held_out) == 15
    pairs = dataclasses.replace(fraction, text_pair_column="text")  # a text beside itself
    both = next(iter(load(DataConfig(pairs), "sequence_classification").evaluation(2)))
    assert (both["token_types"].sum(axis=1) == 5 + 1).all()  # of 9 tokens, and the last [SEP]
    with pytest.raises(QtxError, match=r"no feature review \(Text\): found label \(ClassLabel\), text \(Text\)"):
        load(DataConfig(dataclasses.replace(fraction, text_column="review")), "sequence_classification")


def test_a_table_is_no_text(tmp_path):
    file = labelled(tmp_path, SORTED)
    with pytest.raises(QtxError, match="a.tsv is a table, not text: source text_labels reads texts with labels"):
        next(documents(file, None))
