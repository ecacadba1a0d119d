"""Questions with choices: how files are read, contexts and choices tokenized, questions judged, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qtx.data import DataConfig, load
from qtx.data.choice_files import choice_questions
from qtx.data.sources import ChoiceQuestions
from qtx.foundation.errors import QtxError
from qtx.losses.choices import Choices, ChoiceSums, Likelihoods

from .samples import write_choices

FORMS = {
    "HellaSwag's": ({"query": "A", "choices": ["x", "y"], "gold": 1}, ("A", "A"), 1),
    "HellaSwag's own": ({"ctx": "A", "endings": ["x", "y"], "label": "1"}, ("A", "A"), 1),
    "ARC's": (
        {"question": "A", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
        ("A", "A"),
        1,
    ),
    "WinoGrande's": ({"query": ["A", "B"], "choices": ["x", "x"], "gold": 0}, ("A", "B"), 0),
    "by its text": ({"question": "A", "choices": ["no", "yes"], "answer": "yes"}, ("A", "A"), 1),
    "a number that is also the text": ({"question": "A", "choices": ["0", "1"], "answer": "1"}, ("A", "A"), 1),
}


def written(folder, *rows):
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "a.jsonl"


@pytest.mark.parametrize(("row", "contexts", "right"), FORMS.values(), ids=FORMS)
def test_forms_of_a_question(row, contexts, right, tmp_path):
    (found,) = choice_questions(written(tmp_path, row))
    assert (found.contexts, found.right, len(found.choices)) == (contexts, right, 2)


GOOD = {"query": "A", "choices": ["x", "y"], "gold": 1}
REFUSED = {
    "no object": ([1], "expected an object with a question, choices and the number of the right one"),
    "no question": ({**GOOD, "query": None} | {"query": 3}, "the question: '3' is no list of texts"),
    "no key": (
        {"choices": ["x", "y"], "gold": 1},
        "no key query or question or ctx, found choices, gold: set data.text_column",
    ),
    "one choice": ({**GOOD, "choices": ["x"]}, "expected two or more texts that are not empty"),
    "an empty choice": ({**GOOD, "choices": ["x", ""]}, "expected two or more texts that are not empty"),
    "a number": ({**GOOD, "choices": ["x", 2]}, "is no list of texts"),
    "beyond": ({**GOOD, "gold": 2}, "the answer is '2': expected the right choice, 0 to 1"),
    "before": ({**GOOD, "gold": -1}, "the answer is '-1': expected the right choice, 0 to 1"),
    "true": ({**GOOD, "gold": True}, "the answer is 'True': expected the right choice, 0 to 1"),
    "text of none": ({**GOOD, "gold": "z"}, "the answer is 'z': expected the right choice, 0 to 1"),
    "text of two": ({**GOOD, "choices": ["x", "x"], "gold": "x"}, "the answer is 'x', which may be several choices"),
    "text and number": (
        {**GOOD, "choices": ["1", "0"], "gold": "1"},
        "the answer is '1', which may be several choices",
    ),
    "contexts": ({**GOOD, "query": ["A"]}, "1 texts to go on with 2 choices: expected one for each"),
    "names": ({**GOOD, "choices": {"text": ["x", "y"], "label": ["A", "A"]}}, "expected a name of its own for each"),
}


@pytest.mark.parametrize(("row", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_question_is_told_in_one_line_with_its_place(row, message, tmp_path):
    with pytest.raises(QtxError) as error:
        list(choice_questions(written(tmp_path, GOOD, row)))
    assert str(error.value).startswith(f"{tmp_path}/a.jsonl, line 2: ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_files_and_choices_that_cannot_be(tmp_path):
    with pytest.raises(QtxError, match=r"a.csv has no questions with choices: expected .jsonl"):
        list(choice_questions(tmp_path / "a.csv"))
    with pytest.raises(QtxError, match="prompt is set, but source choices takes a text as it is"):
        ChoiceQuestions(files=("a",), prompt="query")
    file = str(written(tmp_path, GOOD, {**GOOD, "choices": ["x", "\u00e9\u00e8\u00e7" * 9]}))
    source = ChoiceQuestions(files=(file,), validation_files=(file,), sequence_length=16, vocab_size=264)
    with pytest.raises(QtxError, match="has 19 tokens: expected from 1 to sequence_length 16; raise it"):
        load(DataConfig(source), "choices")


def test_a_choice_follows_its_context_which_loses_its_beginning(tmp_path):
    rows = [
        {"query": "head token  ", "choices": ["layer", "gate value"], "gold": 0},  # trailing blanks are the choice's
        {"query": "", "choices": ["head", "step"], "gold": 1},
        {"query": ("model " * 40).strip(), "choices": ["query", "key"], "gold": 1},
    ]
    write_choices(tmp_path / "b.jsonl")
    files = dict(files=(f"{tmp_path}/b.jsonl",), validation_files=(str(written(tmp_path, *rows)),))
    data = load(DataConfig(ChoiceQuestions(**files, sequence_length=24, vocab_size=400)), "choices")
    tokenizer, found = data.tokenizer, {}
    for block in data.held_out:
        row = data.example(block, np.random.default_rng(0))
        end = int(row["mask"].sum())
        counted = np.flatnonzero(row["weights"])
        assert (counted == np.arange(end - len(counted), end)).all() and row["choices"] == len(found)
        whole = [*row["tokens"][:end], row["labels"][end - 1]]
        assert row["labels"][: end - 1].tolist() == [int(x) for x in row["tokens"][1:end]]
        found[tokenizer.decode(row["labels"][counted])] = (whole, len(counted))
    assert set(found) == {"   layer", "   gate value", " head", " step", " query", " key"} and len(data.held_out) == 6
    (short,) = tokenizer.encode(["head token   layer"])
    assert found["   layer"][0] == [tokenizer.start, *short]
    assert found[" head"][0] == [tokenizer.start, *tokenizer.encode([" head"])[0]]
    lengths = sorted(int((block[:25] >= 0).sum()) for block in data.held_out)
    assert lengths[-2:] == [25, 25]
    assert len(data.training) == 60  # the right choices alone


def test_questions_are_judged_once_all_choices_are_there():
    """Against a loop over the questions; ties go to the first choice."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 5, 30)
    questions = np.repeat(np.arange(30), sizes)
    gold = [int(rng.integers(size)) for size in sizes]
    right = np.concatenate([np.arange(size) == g for size, g in zip(sizes, gold, strict=True)])
    lengths = rng.integers(1, 9, len(questions))
    log, tokens = -rng.integers(1, 6, len(questions)).astype(float), rng.integers(1, 4, len(questions)).astype(float)
    choices = Choices("x", questions, right, lengths)
    cut = len(questions) - 1  # the last question is not whole
    numbers = np.arange(len(questions))
    first = ChoiceSums(Likelihoods(numbers[:20], log[:20], tokens[:20]), choices)
    padding = Likelihoods(np.append(numbers[20:cut], 0), np.append(log[20:cut], 0.0), np.append(tokens[20:cut], 0))
    found = first.plus(ChoiceSums(padding, choices)).metrics()
    best, per_letter, loss, count = [], [], 0.0, 0.0
    for question in range(29):
        of = numbers[questions == question]
        best.append(np.argmax(log[of]) == gold[question])
        per_letter.append(np.argmax(log[of] / lengths[of]) == gold[question])
        loss, count = loss - log[of][gold[question]], count + tokens[of][gold[question]]
    assert found["accuracy"] == pytest.approx(np.mean(best)) and found["accuracy_norm"] == pytest.approx(
        np.mean(per_letter)
    )
    assert found["loss"] == pytest.approx(loss / count) and found["predictions"] == count
    none = ChoiceSums(Likelihoods(numbers[:1], log[:1], tokens[:1]), choices).metrics()
    assert np.isnan(none["accuracy"]) and np.isnan(none["loss"])
