"""Questions with a few choices each, one of them right, in JSON lines, as lm-evaluation-harness's tasks have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qtx.data.reading import json_lines, text_kind, whole
from qtx.foundation.errors import QtxError

QUESTION, CHOICES, ANSWER = (
    ("query", "question", "ctx"),
    ("choices", "endings"),
    ("gold", "label", "answer", "answerKey"),
)
"""Keys of what is asked, of the choices, and of the right one, if no others are named: the first that is there."""


class ChoiceQuestion(NamedTuple):
    """A question.

    Attributes:
      contexts: the text before each choice, mostly the same one.
      choices: the texts to choose from.
      right: the number of the right one; -1: it is not used.
    """

    contexts: tuple[str, ...]
    choices: tuple[str, ...]
    right: int


def choice_questions(
    path: str | Path,
    text_column: str | None = None,
    choices_column: str | None = None,
    label_column: str | None = None,
    mended: Counter[str] | None = None,
    labelled: bool = True,
) -> Iterator[ChoiceQuestion]:
    """Yields the questions of a file.

    Args:
      path: a `.jsonl`, an object per line. Its question is a text, or a list of texts, one for each choice (of
        WinoGrande); its choices are a list of texts, or an object that has such a list as `text` and their names as
        `label` (ARC's); its answer is the number of the right choice, from 0, or the right choice's name or text. Plain
        or with `.gz`, `.xz` or `.zst`.
      text_column, choices_column, label_column: keys of the three; None: see `QUESTION`, `CHOICES` and `ANSWER`.
      mended: see `qtx.data.reading.whole`.
      labelled: whether the answers are used; if not, there need not be any.

    Raises:
      QtxError: for a file that cannot be read or is of another kind, or a line that has no such question.
    """
    if text_kind(path) != ".jsonl":
        raise QtxError(f"{path} has no questions with choices: expected .jsonl, plain or with .gz, .xz or .zst")
    for number, record in json_lines(path):
        where = f"{path}, line {number}"
        if not isinstance(record, dict):
            raise QtxError(f"{where}: expected an object with a question, choices and the number of the right one")
        choices, names = _choices(_value(record, "choices_column", choices_column, CHOICES, where), where)
        asked = _value(record, "text_column", text_column, QUESTION, where)
        asked = [asked] * len(choices) if isinstance(asked, str) else _texts(asked, "the question", where)
        if len(asked) != len(choices):
            raise QtxError(f"{where}: {len(asked)} texts to go on with {len(choices)} choices: expected one for each")
        right = -1
        if labelled:
            right = _right(_value(record, "label_column", label_column, ANSWER, where), choices, names, where)
        of_asked, of_choices = (tuple(whole(text, mended) for text in texts) for texts in (asked, choices))
        yield ChoiceQuestion(of_asked, of_choices, right)


def _value(record: Mapping[str, Any], option: str, named: str | None, usual: Sequence[str], where: str) -> Any:
    key = next((key for key in ([named] if named else usual) if key in record), None)
    if key is None:
        expected, found = named or " or ".join(usual), ", ".join(key[:20] for key in list(record)[:8])
        raise QtxError(f"{where}: no key {expected}, found {found}: set data.{option} to the key of what it should be")
    return record[key]


def _choices(value: Any, where: str) -> tuple[list[str], list[str]]:
    """Returns the choices, and their names, if they have any."""
    names = []
    if isinstance(value, dict):
        names, value = (_texts(value.get(key), f"{key} of the choices", where) for key in ("label", "text"))
        if len(names) != len(value) or len(set(names)) < len(names):
            raise QtxError(
                f"{where}: {len(value)} choices, but label is {names!r}: expected a name of its own for each"
            )
    choices = _texts(value, "the choices", where)
    if len(choices) < 2 or not all(choices):
        raise QtxError(f"{where}: choices are {str(choices)[:100]}: expected two or more texts that are not empty")
    return choices, names


def _texts(value: Any, what: str, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise QtxError(f"{where}: {what}: {str(value)[:50]!r} is no list of texts")
    return value


def _right(answer: Any, choices: Sequence[str], names: Sequence[str], where: str) -> int:
    """Returns the number of the right choice, which an answer names in one way or another, but no two choices."""
    meant = set[int]()
    if isinstance(answer, int) and not isinstance(answer, bool):
        meant = {answer} & set(range(len(choices)))
    if isinstance(answer, str):
        meant = {names.index(answer)} if answer in names else {i for i, x in enumerate(choices) if x == answer}
        if not names and answer.isdecimal() and int(answer) < len(choices):
            meant |= {int(answer)}
    if len(meant) == 1:
        return meant.pop()
    known = ", ".join(names) or f"0 to {len(choices) - 1}"
    several = ", which may be several choices" if meant else ""
    raise QtxError(f"{where}: the answer is {str(answer)[:50]!r}{several}: expected the right choice, {known}")
