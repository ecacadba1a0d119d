"""Which class a label is of, and the order of classes that nobody has numbered."""

from __future__ import annotations

import pytest

from qtx.data.classes import Numbering, UnknownLabel, in_order
from qtx.data.tables import labelled_texts

ORDERS = {
    "numbers": (["10", "2", "0", "1"], ("0", "1", "2", "10")),
    "below zero": (["1", "-1", "0"], ("-1", "0", "1")),
    "numbers as pandas writes them beside a gap": (["10.0", "2.0", "2"], ("2", "10")),
    "a number among words": (["10", "2", "b"], ("10", "2", "b")),
    "transformers' names": (["LABEL_10", "LABEL_2"], ("LABEL_2", "LABEL_10")),
    "fractions are words": (["1.5", "0.5"], ("0.5", "1.5")),
    "white space": ([" pos", "neg", "pos "], ("neg", "pos")),
    "longer than any number": (["9" * 5000, "1"], ("1", "9" * 5000)),
}


@pytest.mark.parametrize(("labels", "expected"), ORDERS.values(), ids=ORDERS)
def test_the_order_of_labels_that_nobody_has_numbered(labels, expected):
    assert in_order(labels) == expected


TWELVE = tuple(f"LABEL_{i}" for i in range(12))
NUMBERS = {
    "a name": (("neg", "pos"), "pos", 1),
    "a name within white space": (("neg ", "pos"), " neg", 0),
    "a number, of classes without names": (TWELVE, "10", 10),
    "a number as a fraction": (TWELVE, "10.0", 10),
    "transformers' name": (TWELVE, "LABEL_10", 10),
    "transformers' name of a class that is its number": (tuple("012"), "LABEL_2", 2),
    "a number that is a name": (("1", "2", "3"), "2", 1),
    "names that look like numbers in another order": (("LABEL_1", "LABEL_0"), "LABEL_0", 1),
    "another case": (("NEG", "POS"), "pos", None),
    "a number, of classes with names": (("neg", "pos"), "1", None),
    "a number too high": (TWELVE, "12", None),
    "below zero": (TWELVE, "-1", None),
    "with zeros before it": (TWELVE, "01", None),
    "transformers' name too high": (TWELVE, "LABEL_12", None),
    "a truth": (TWELVE[:2], "true", None),
    "the name of two": (("a", "b", "b"), "b", None),
    "the name of one, where two others have one": (("a", "b", "b"), "a", 0),
}


@pytest.mark.parametrize(("classes", "label", "expected"), NUMBERS.values(), ids=NUMBERS)
def test_which_class_a_label_is_of(classes, label, expected):
    numbering = Numbering(classes)
    if expected is not None:
        assert numbering.number(label, "here") == expected
        return
    with pytest.raises(UnknownLabel) as error:
        numbering.number(label, "here")
    assert f"here: label {label!r} is none of the classes {classes[0]}, {classes[1]}" in str(error.value)


def test_a_label_of_no_class_is_told_with_its_line(tmp_path):
    (tmp_path / "a.tsv").write_text("text\tlabel\na\tpos\n\nb\tmixed\n")
    rows = labelled_texts(tmp_path / "a.tsv", "text", "label", numbering=Numbering(("neg", "pos")))
    assert next(rows) == ("a", "pos")
    with pytest.raises(UnknownLabel, match=r"a\.tsv, line 4: label 'mixed' is none of the classes neg, pos: "):
        next(rows)


def test_a_whole_number_of_json_may_have_a_fraction_of_zeros(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": 1.0}\n{"text": "y", "label": " 2 "}\n')
    assert [row.label for row in labelled_texts(tmp_path / "a.jsonl", "text", "label")] == ["1", "2"]
