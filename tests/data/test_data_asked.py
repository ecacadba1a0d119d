"""Questions about texts: how SQuAD's files are read, texts cut into windows, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import lzma

import numpy as np
import pytest

from qtx.data import DataConfig, load
from qtx.data.question_files import questions
from qtx.data.sources import Questions
from qtx.foundation.errors import QtxError

WORDS = ("Rome", "is", "old", ".", "Anna", "Stone", "\u00e9t\u00e9", "waits", "there", "since")
LONG = " ".join(WORDS * 3)


def asked(question="who?", answers=(("Anna Stone", 14),), **more):
    return {"question": question, "answers": [{"text": text, "answer_start": at} for text, at in answers], **more}


def squad(*paragraphs):
    return {"version": "2.0", "data": [{"title": "t", "paragraphs": [{"context": c, "qas": q} for c, q in paragraphs]}]}


SQUAD = squad(
    (LONG, [asked(), asked(" when?", [("old", 8), ("since", LONG.rindex("since"))])]),
    ("Anna waits", [asked("where?", (), is_impossible=True), asked("who waits?", [("Anna", 0)], is_impossible=False)]),
)


def written(folder, content, name="a.json"):
    text = json.dumps(content)
    (folder / name).write_bytes(lzma.compress(text.encode()) if name.endswith(".xz") else text.encode())
    return str(folder / name)


@pytest.mark.parametrize("name", ["a.json", "b.JSON.xz"])
def test_questions_have_their_answers_and_texts(tmp_path, name):
    found = list(questions(written(tmp_path, SQUAD, name.lower())))
    assert [(row.question, row.answers, row.starts, row.optional) for row in found] == [
        ("who?", ("Anna Stone",), (14,), False),
        ("when?", ("old", "since"), (8, LONG.rindex("since")), False),
        ("where?", (), (), True),
        ("who waits?", ("Anna",), (0,), True),
    ]
    assert [row.context for row in found] == [LONG, LONG, "Anna waits", "Anna waits"]


def broken(change):
    content = json.loads(json.dumps(SQUAD))
    change(content["data"][0]["paragraphs"][0])
    return content


REFUSED = {
    "elsewhere": (
        lambda p: p["qas"][1]["answers"][0].update(answer_start=9),
        "data[0].paragraphs[0].qas[1].answers[0]: the context has 'ld ' at answer_start 9, not 'old': correct it",
    ),
    "beyond": (
        lambda p: p["qas"][0]["answers"][0].update(answer_start=900),
        "the context has '' at answer_start 900, no",
    ),
    "before": (lambda p: p["qas"][0]["answers"][0].update(answer_start=-3), "at answer_start -3, not 'Anna Stone'"),
    "no place": (
        lambda p: p["qas"][0]["answers"][0].pop("answer_start"),
        "answers[0]: no 'answer_start': expected a whol",
    ),
    "no answer": (
        lambda p: p["qas"][0].update(answers=[]),
        "qas[0]: no answer: expected one in answers, or is_impossible",
    ),
    "no answers": (lambda p: p["qas"][0].pop("answers"), "qas[0]: no 'answers': expected a list, as SQuAD has it"),
    "no question": (lambda p: p["qas"][1].pop("question"), "qas[1]: no 'question': expected a text, as SQuAD has it"),
    "no context": (lambda p: p.update(context=["x"]), "paragraphs[0]: context is \"['x']\": expected a text"),
    "perhaps": (lambda p: p["qas"][0].update(is_impossible=1), "qas[0]: is_impossible is '1': expected true or false"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_question_is_told_in_one_line_with_its_place(tmp_path, change, message):
    with pytest.raises(QtxError) as error:
        list(questions(written(tmp_path, broken(change))))
    assert message in str(error.value) and str(error.value).startswith(f"{tmp_path}/a.json: data[0]")
    assert "\n" not in str(error.value)


def test_files_that_are_no_questions(tmp_path):
    (tmp_path / "a.json").write_text("{")
    for name, message in (("a.json", "a.json: not JSON"), ("a.csv", "a.csv has no questions: expected SQuAD's .json")):
        with pytest.raises(QtxError, match=message):
            list(questions(tmp_path / name))
    with pytest.raises(QtxError, match="a.json: no 'data': expected a list, as SQuAD has it"):
        list(questions(written(tmp_path, [SQUAD])))


PIECES = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "?",
    "who",
    "when",
    "where",
    "st",
    "##one",
    *map(str.lower, WORDS),
)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES).replace("stone\n", "").replace("\u00e9t\u00e9", "ete"))
    file = written(tmp_path, SQUAD)
    options = dict(tokenizer=str(tmp_path / "vocab.txt"), sequence_length=16, stride=3)
    return Questions(files=(file,), validation_files=(file,), **options)


def windows(data, split):
    rng = np.random.default_rng(0)
    return [data.example(split[i], rng) for i in range(len(split))]


def test_long_texts_are_read_in_windows_that_overlap(source):
    """By the tokens: every window has the question, and the next tokens of the text; an answer that is not in a window
    as a whole is at position 0."""
    data = load(DataConfig(source), "question_answering")
    tokenizer = data.tokenizer
    [whole, short] = tokenizer.encode([LONG, "Anna waits"])
    assert len(whole) == 33 and len(data.training) == 4 + 4 + 1 + 1
    questions_there = {}
    for made in windows(data, data.training):
        tokens = made["tokens"][made["mask"]]
        pieces, types = tokenizer.tokens(tokens), made["token_types"]
        end = pieces.index("[SEP]")
        assert pieces[0] == "[CLS]" and pieces[-1] == "[SEP]" and not types[: end + 1].any()
        assert types[end + 1 : len(pieces)].all() and not types[len(pieces) :].any()
        assert made["context"].tolist() == [end < i < len(pieces) - 1 for i in range(16)]
        first, last = made["labels"]
        answer = "" if (first, last) == (0, 0) else " ".join(pieces[first : last + 1])
        questions_there.setdefault(" ".join(pieces[1:end]), []).append((tokens[made["context"][: len(pieces)]], answer))
    who = questions_there["who ?"]
    room = 16 - 3 - 2
    starts = range(0, 33 - 3, room - 3)
    assert [row.tolist() for row, _ in who] == [whole[start : start + room].tolist() for start in starts]
    assert [answer for _, answer in who] == ["anna st ##one", "", "", ""]
    assert [answer for _, answer in questions_there["when ?"]] == ["old", "", "", ""]
    assert [answer for _, answer in questions_there["where ?"]] == [""]
    assert [(row.tolist(), answer) for row, answer in questions_there["who waits ?"]] == [(short.tolist(), "anna")]
    assert data.description.count("4 training and 4 held-out questions, in 10 and 10 windows of 16 tokens") == 1


def test_right_answers_get_full_marks_and_windows_know_their_texts(source):
    """The tokens of the labels, as texts of the files."""
    data = load(DataConfig(source), "question_answering")
    made = windows(data, data.held_out)
    numbers = np.array([x["windows"] for x in made])
    assert numbers.tolist() == list(range(len(made)))
    labels = np.array([x["labels"] for x in made])
    there = labels.any(axis=1)
    scores = np.where(there, 2.0, -np.inf), np.where(there, 1.0, 3.0)
    assert data.answers.scores(numbers, *labels.T, *scores) == {"exact_match": 1.0, "f1": 1.0}
    none = np.full(len(made), 9.0)
    assert data.answers.scores(numbers, *labels.T, scores[0], none)["f1"] == 0.25  # right for one of four
    assert data.answers == load(DataConfig(source), "question_answering").answers
    other = load(DataConfig(dataclasses.replace(source, stride=4)), "question_answering")
    assert other.answers != data.answers and other.digests == data.digests


def test_a_question_without_room_for_its_text(source):
    with pytest.raises(
        QtxError, match=r"question 'wh.+\?' has [23] tokens, which leave [12] of sequence_length 7 for its"
    ):
        load(DataConfig(dataclasses.replace(source, sequence_length=7)), "question_answering")
    with pytest.raises(QtxError, match="stride"):
        Questions(files=("x",), stride=-1)


def test_questions_about_a_text_are_on_one_side(tmp_path):
    rows = [(f"{LONG} {word}", [asked(), asked("when?", [("old", 8)])]) for word in WORDS]
    options = dict(sequence_length=72, vocab_size=50, held_out_fraction=0.3)
    source = Questions(files=(written(tmp_path, squad(*rows)),), **options)
    data = load(DataConfig(source), "question_answering")
    texts = [{x["tokens"][x["context"]].tobytes() for x in windows(data, s)} for s in (data.training, data.held_out)]
    assert list(map(len, texts)) == [7, 3] and not texts[0] & texts[1]
    assert DataConfig(source).resolved("question_answering").source.stride == 24


def test_a_distilled_model_reads_the_windows_alone(source, tmp_path):
    data = load(DataConfig(source), "distill")
    assert next(iter(data.evaluation(4))).keys() == {"tokens", "mask", "weights", "token_types"}
    own = load(DataConfig(source), "question_answering")
    np.testing.assert_array_equal(data.training, own.training[:, :32])
    unanswered = squad((LONG, [{"question": "who?", "answers": []}, {"question": "when?"}]))
    assert [row.answers for row in questions(written(tmp_path, unanswered, "b.json"), labelled=False)] == [(), ()]
