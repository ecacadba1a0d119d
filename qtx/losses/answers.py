"""Answers to questions about texts, and how predicted ones are scored against them: the formulas of SQuAD's official
scripts (Rajpurkar et al. 2016, 2018)."""

from __future__ import annotations

import dataclasses
import math
import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))


def normalized(text: str) -> str:
    """Returns an answer in lower case, without ASCII punctuation, articles and white space between words but for one
    blank."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(found: str, right: str) -> float:
    """Returns 1 if two answers are the same once `normalized`, or else 0."""
    return float(normalized(found) == normalized(right))


def answer_f1(found: str, right: str, empty_is_right: bool) -> float:
    """Returns the F1 of the words that an answer has in common with the right one, each as often as both have it.

    Args:
      found, right: the answers.
      empty_is_right: whether two answers without words, such as no answer, are the same (SQuAD 2), or nothing (1.1).
    """
    words, others = normalized(found).split(), normalized(right).split()
    if not words or not others:
        return float(empty_is_right and words == others)
    common = sum((Counter(words) & Counter(others)).values())
    return 2 * common / (len(words) + len(others))


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers to held-out questions, and the windows in which a model reads the texts that have the answers.

    Two are equal if their digests are: programs are compiled for one.

    Attributes:
      digest: a hash of all the others.
      optional: whether a question may have no answer (SQuAD 2).
      right: for each question the right answers, one of them "" if there is none.
      texts: for each question the text.
      offsets: for each question where the tokens of its text begin and end in it, in characters, int `[n, 2]`.
      windows: for each window the number of its question, and what to add to a position in it for the number of the
        text's token there, int `[N, 2]`.
    """

    digest: str
    optional: bool = dataclasses.field(compare=False)
    right: Sequence[Sequence[str]] = dataclasses.field(compare=False, repr=False)
    texts: Sequence[str] = dataclasses.field(compare=False, repr=False)
    offsets: Sequence[np.ndarray] = dataclasses.field(compare=False, repr=False)
    windows: np.ndarray = dataclasses.field(compare=False, repr=False)

    def scores(
        self, windows: np.ndarray, first: np.ndarray, last: np.ndarray, best: np.ndarray, none: np.ndarray
    ) -> dict[str, float]:
        """Returns exact match and F1 of the answers that a model gives, as means over the questions that have any of
        these windows; NaN for no windows. The answer to a question is the best span of all its windows, or none if that
        has a higher score in all of them.

        Args:
          windows: the windows' numbers, `[W]`.
          first, last: the positions of the tokens of the best span in each, `[W]`.
          best, none: the score of that span, -inf for no span, and the score of no answer, `[W]`.
        """
        found: dict[int, tuple[float, str]] = {}
        nothing: dict[int, float] = {}
        for window, begin, end, score, of_none in zip(windows, first, last, best, none, strict=True):
            question, shift = self.windows[int(window)].tolist()
            nothing[question] = min(nothing.get(question, math.inf), of_none)
            if score > found.get(question, (-math.inf, ""))[0]:
                places = self.offsets[question]
                text = self.texts[question][places[int(begin) + shift, 0] : places[int(end) + shift, 1]]
                found[question] = (score, text)
        scored = []
        for question, of_none in nothing.items():
            score, text = found.get(question, (-math.inf, ""))
            text = "" if self.optional and of_none > score else text
            right = self._right(question)
            matches, f1s = ([of(text, x) for x in right] for of in (exact_match, self._f1))
            scored.append((max(matches), max(f1s)))
        means = np.mean(scored, axis=0) if scored else (math.nan, math.nan)
        return {"exact_match": float(means[0]), "f1": float(means[1])}

    def _f1(self, found: str, right: str) -> float:
        return answer_f1(found, right, self.optional)

    def _right(self, question: int) -> Sequence[str]:
        """Returns the right answers; with optional ones those alone that have words, as the script of SQuAD 2."""
        right = self.right[question]
        return ([x for x in right if normalized(x)] or [""]) if self.optional else right
