"""Notes for a data set's description: counts of what reading left out, mended or found to be a copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping

WITHHELD, COPIES, HALVES = "withheld", "copies", "halves"
CUT, LOST, EMPTY = "cut", "lost", "empty"
WORDS = {
    WITHHELD: "documents left out of training, as they are held out elsewhere",
    COPIES: "held-out texts that are in training too",
    HALVES: "halves of surrogate pairs that became U+FFFD",
    CUT: "words beyond sequence_length, which count nowhere",
    LOST: "words of which the tokenizer makes nothing, which count nowhere",
    EMPTY: "sentences without a word, left out",
}
"""The words for each count, by the count's name."""
SHOWN = 6
"""Number of kinds of files that are told."""


def noted(counts: Mapping[str, int]) -> str:
    """Puts the counts of `WORDS` into words; empty if all are zero."""
    return "; ".join(f"{words}: {counts[name]:,}" for name, words in WORDS.items() if counts.get(name))


def left_out(kinds: Mapping[str, int]) -> str:
    """Says how many files of which kinds were left out, "3 files left out: 2 .webp, 1 .csv"; empty for none."""
    total, ordered = sum(kinds.values()), sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    told = ", ".join(f"{count:,} {kind}" for kind, count in ordered[:SHOWN]) + ", ..." * (len(kinds) > SHOWN)
    return f"{total:,} file{'s' * (total > 1)} left out: {told}" if total else ""


def described(*parts: str) -> str:
    """Joins the parts of a description, but for empty ones."""
    return "; ".join(filter(None, parts))


def copies(training: Iterable[Hashable], held_out: Iterable[Hashable]) -> Counter[str]:
    """Counts the held-out texts, or pairs of texts, that are among the training texts."""
    known = set(training)
    return Counter({COPIES: sum(text in known for text in held_out)})
