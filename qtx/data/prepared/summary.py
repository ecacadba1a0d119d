"""A summary of a prepared dataset, for people."""

from __future__ import annotations

from qtx.data.notes import WORDS, described, noted
from qtx.data.prepared.writing import Written

COUNTED = ("documents", "tokens", "blocks", "images")


def told(written: Written) -> str:
    """Says in words what making a dataset left out, mended or found to be a copy; empty for nothing."""
    states = written.splits.values()
    counts = {name: max(state.get(name, 0) for state in states) for name in WORDS}
    return described(written.layout.note, *(state.get("left_out", "") for state in states), noted(counts))


def describe(written: Written) -> list[str]:
    """Returns a line on the dataset, one on each split, one on what `told` says, if anything, and one on the folder."""
    counts = {
        split: ", ".join(f"{state[what]:,} {what}" for what in COUNTED if what in state)
        for split, state in written.splits.items()
    }
    if written.seconds is None:
        made = "found there"
    else:
        tokens = sum(state.get("tokens", 0) for state in written.splits.values())
        made = f"made in {written.seconds:,.1f} s" + (f", {tokens / written.seconds:,.0f} tokens/s" if tokens else "")
    return [
        written.layout.description,
        *(f"  {split}: {count}" for split, count in counts.items()),
        *(f"  {note}" for note in filter(None, [told(written)])),
        f"  in {written.folder}: {written.bytes / 1e6:,.1f} MB, {made}",
    ]
