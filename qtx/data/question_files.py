"""Questions about texts in SQuAD's JSON, 1.1 and 2.0."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from qtx.data.reading import read_text, text_kind, whole
from qtx.foundation.errors import QtxError


class Question(NamedTuple):
    """A question about a text.

    Attributes:
      question, context: the question, and the text that has its answer.
      answers: the right answers, as the text has them; none if there is none.
      starts: where each begins, in characters of the text.
      optional: whether the file says of each question whether it has an answer (SQuAD 2).
    """

    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]
    optional: bool


def questions(path: str | Path, mended: Counter[str] | None = None, labelled: bool = True) -> Iterator[Question]:
    """Yields the questions of a file.

    Args:
      path: a `.json` as SQuAD's: `data`, a list of articles with `paragraphs`, which have a `context` and `qas`, each
        with a `question`, `answers` with `text` and `answer_start`, and in SQuAD 2 `is_impossible`. Plain or with
        `.gz`, `.xz` or `.zst`.
      mended: see `qtx.data.reading.whole`.
      labelled: whether the answers are used; if not, there need not be any.

    Raises:
      QtxError: for a file that cannot be read or is of another kind, or an answer that is not where the file says.
    """
    if text_kind(path) != ".json":
        raise QtxError(f"{path} has no questions: expected SQuAD's .json, plain or with .gz, .xz or .zst")
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise QtxError(f"{path}: not JSON ({error}): expected questions as SQuAD has them") from None
    for i, article in enumerate(_part(content, "data", list, str(path))):
        at = f"{path}: data[{i}]"
        for j, paragraph in enumerate(_part(article, "paragraphs", list, at)):
            where = f"{at}.paragraphs[{j}]"
            context = whole(_part(paragraph, "context", str, where), mended)
            for k, asked in enumerate(_part(paragraph, "qas", list, where)):
                yield _question(asked, context, f"{where}.qas[{k}]", mended, labelled)


def _question(asked: Any, context: str, where: str, mended: Counter[str] | None, labelled: bool) -> Question:
    question = whole(_part(asked, "question", str, where), mended).lstrip()
    optional = "is_impossible" in asked
    none = (optional and _part(asked, "is_impossible", bool, where)) or (not labelled and not asked.get("answers"))
    found = []
    for n, answer in enumerate([] if none else _part(asked, "answers", list, where)):
        at = f"{where}.answers[{n}]"
        text, start = whole(_part(answer, "text", str, at), mended), _part(answer, "answer_start", int, at)
        if start < 0 or not text or context[start : start + len(text)] != text:
            raise QtxError(
                f"{at}: the context has {context[max(start, 0) : max(start, 0) + len(text)][:50]!r} at answer_start "
                f"{start}, not {text[:50]!r}: correct it; characters are counted from 0"
            )
        found.append((text, start))
    if not none and not found:
        raise QtxError(f"{where}: no answer: expected one in answers, or is_impossible")
    return Question(question, context, tuple(text for text, _ in found), tuple(start for _, start in found), optional)


def _part(value: Any, key: str, kind: type, where: str) -> Any:
    """Returns what an object has under a key, of a kind."""
    found = value.get(key) if isinstance(value, dict) else None
    if type(found) is not kind:
        there = f"{key} is {str(found)[:50]!r}" if isinstance(value, dict) and key in value else f"no {key!r}"
        raise QtxError(f"{where}: {there}: expected {NAMES[kind]}, as SQuAD has it")
    return found


NAMES = {list: "a list", str: "a text", int: "a whole number", bool: "true or false"}
