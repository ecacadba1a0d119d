"""Labels that are numbers, or names of which a text may have several: how files hold them, and what they become."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qtx.data import DataConfig, load
from qtx.data.sources import TextLabels
from qtx.foundation.errors import QtxError

from .samples import WORDS

REGRESSION, LABELS = "sequence_regression", "multi_label_classification"
WORD = WORDS[0]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def loaded(folder, objective, rows, table=False, **options):
    """The data of texts with these labels: of a table the cells of a row, else JSON values under `label`."""
    if table:
        file, *_ = folder / "texts.tsv", options.setdefault("text_column", "text")
        lines = ["\t".join(["text", *rows[0]]), *("\t".join([f"{WORD} {i}", *row]) for i, row in enumerate(rows[1:]))]
    else:
        file = folder / "texts.jsonl"
        lines = [json.dumps({"text": f"{WORD} {i}", "label": row}) for i, row in enumerate(rows)]
    file.write_text("\n".join(lines) + "\n")
    files = (str(file),)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, WORD, *"0123456789"]) + "\n")
    source = TextLabels(files=files, validation_files=files, sequence_length=8, tokenizer=str(folder), **options)
    return load(DataConfig(source), objective)


def labels_of(data):
    """Labels `[N, K]` of the held-out texts, in the order of the file."""
    batch = next(iter(data.evaluation(len(data.held_out))))
    assert batch["labels"].dtype == np.float32 and batch["weights"].all()
    numbers = batch["tokens"][:, 2]  # after the token at the beginning, and the word
    return batch["labels"][np.argsort(numbers)].tolist()


NAMES = ("LABEL_0", "LABEL_1")
# Objective, rows, options, then the names of the outputs and the numbers of the texts.
READ = {
    "a number": (REGRESSION, [0.5, -2, "3e1"], {}, ("LABEL_0",), [[0.5], [-2], [30]]),
    "lists of numbers": (REGRESSION, [[1, 2.5], [0, 1]], {}, NAMES, [[1, 2.5], [0, 1]]),
    "named numbers": (REGRESSION, [[1, 2], [0, 1]], {"classes": ("joy", "fear")}, ("joy", "fear"), [[1, 2], [0, 1]]),
    "numbers in a cell": (REGRESSION, [["label"], ["1.5, 2"], ["0,1"]], {"table": True}, NAMES, [[1.5, 2], [0, 1]]),
    "columns of numbers": (
        REGRESSION,
        [["joy", "fear"], ["1", "2"], ["3", "-4.5"]],
        {"table": True, "label_column": "fear,joy"},
        ("fear", "joy"),
        [[2, 1], [-4.5, 3]],
    ),
    "lists of names": (LABELS, [["b"], ["a", "c"], []], {}, ("a", "b", "c"), [[0, 1, 0], [1, 0, 1], [0, 0, 0]]),
    "lists of 0 and 1": (LABELS, [[0, 1], [True, False]], {"classes": ("x", "y")}, ("x", "y"), [[0, 1], [1, 0]]),
    "names in a cell": (
        LABELS,
        [["label"], ["b, a"], [""], ["a"]],
        {"table": True},
        ("a", "b"),
        [[1, 1], [0, 0], [1, 0]],
    ),
    "columns of 0 and 1": (
        LABELS,
        [["rude", "threat"], ["1", "0"], ["0", "1"]],
        {"table": True, "label_column": "rude,threat"},
        ("rude", "threat"),
        [[1, 0], [0, 1]],
    ),
    "columns in another order than the model's labels": (
        LABELS,
        [["rude", "threat"], ["1", "0"], ["0", "0"]],
        {"table": True, "label_column": "rude,threat", "classes": ("threat", "rude", "spam")},
        ("threat", "rude", "spam"),
        [[0, 1, 0], [0, 0, 0]],
    ),
    "one label": (LABELS, [["a"], []], {}, ("a",), [[1], [0]]),
    "numbers of labels that have no names": (
        LABELS,
        [["2", "0.0"], ["LABEL_1 "]],
        {"classes": ("LABEL_0", "LABEL_1", "LABEL_2")},
        ("LABEL_0", "LABEL_1", "LABEL_2"),
        [[1, 0, 1], [0, 1, 0]],
    ),
    "numbers for names, in their order": (LABELS, [["10"], ["9", "10"]], {}, ("9", "10"), [[0, 1], [1, 1]]),
}


@pytest.mark.parametrize("case", READ)
def test_what_a_file_says_is_what_the_model_is_given(tmp_path, case):
    objective, rows, options, names, expected = READ[case]
    data = loaded(tmp_path, objective, rows, **options)
    assert data.classes == names
    assert labels_of(data) == expected


REFUSED = {
    "no number": (REGRESSION, [1, "warm"], {}, "line 2: label is 'warm': expected a number"),
    "a flag": (REGRESSION, [True], {}, "line 1: label is 'True': expected a number"),
    "nothing": (REGRESSION, [1, None], {}, "line 2: label is 'None': expected a number"),
    "not finite": (REGRESSION, [1, "nan"], {}, "line 2: label is 'nan': expected a number"),
    "too large": (REGRESSION, [1, 1e39], {}, "line 2: label is '1e\\+39': expected a number"),
    "an empty cell": (
        REGRESSION,
        [["label"], ["1"], [""]],
        {"table": True},
        "line 3: no label: expected one",
    ),
    "fewer numbers": (REGRESSION, [[1, 2], [3]], {}, "have a label of 1 numbers, .*: expected 2"),
    "other names": (
        LABELS,
        [["a"], ["b"]],
        {"classes": ("a", "c")},
        "the training texts: label 'b' is none of .* a, c",
    ),
    "two": (LABELS, [[0, 2]], {}, "line 1: label is '2': expected 1 for a text that has the label, or 0"),
    "both": (LABELS, [["a"], [0, 1]], {}, "some texts have names of labels, and others a 0 or 1 for each"),
    "a mixture": (LABELS, [["a", 1]], {}, "line 1: label is .*: expected names of labels, or a 0 or 1 for each label"),
    "twice": (LABELS, [["label"], ["1,0,1"]], {"table": True}, "line 2: label has '1' twice: .* columns of their own"),
    "none at all": (LABELS, [[], []], {}, "no training text has a label"),
    "a class": ("sequence_classification", [0.5, 1], {}, "line 1: label is '0.5': expected a text or a whole number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_label_is_told_in_a_line(tmp_path, case):
    objective, rows, options, message = REFUSED[case]
    with pytest.raises(QtxError, match=message) as error:
        loaded(tmp_path, objective, rows, **options)
    assert "\n" not in str(error.value)


def test_what_is_taught_takes_texts_with_labels_of_any_kind(tmp_path):
    for label in (0.5, ["a"], [], "red"):
        assert "labels" not in next(iter(loaded(tmp_path, "distill", [label, label]).evaluation(2)))
