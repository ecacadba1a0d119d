"""What reading data left out, mended or found to be a copy: counted, and told in the data's description."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

WITHHELD, COPIES, HALVES = "withheld", "copies", "halves"
WORDS = {
    WITHHELD: "documents left out of training, as they are held out elsewhere",
    COPIES: "held-out texts that are in training too",
    HALVES: "halves of surrogate pairs that became U+FFFD",
}
"""What is counted, by its name in counts."""
SHOWN = 6
"""Kinds of files that are told."""


def noted(counts: Mapping[str, int]) -> str:
    """Counts of `WORDS` in words; empty if all are zero."""
    return "; ".join(f"{words}: {counts[name]:,}" for name, words in WORDS.items() if counts.get(name))


def left_out(kinds: Mapping[str, int]) -> str:
    """Left-out files of some kinds in words, "3 files left out: 2 .webp, 1 .csv"; empty for none."""
    total, ordered = sum(kinds.values()), sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    told = ", ".join(f"{count:,} {kind}" for kind, count in ordered[:SHOWN]) + ", ..." * (len(kinds) > SHOWN)
    return f"{total:,} file{'s' * (total > 1)} left out: {told}" if total else ""


def described(*parts: str) -> str:
    """A description of several parts, those that are empty left out."""
    return "; ".join(filter(None, parts))


def copies(training: Iterable[str], held_out: Iterable[str]) -> Counter[str]:
    """How many held-out texts are among the training texts."""
    known = set(training)
    return Counter({COPIES: sum(text in known for text in held_out)})
