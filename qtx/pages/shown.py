"""Results that show themselves: as a page in a notebook, as text in a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html import escape
from pathlib import Path

from qtx.analysis.diagnosis import Diagnosis
from qtx.pages.results import Result, main_table, markdown

HEIGHT = 640
"""The height of a page in a notebook, in pixels."""


@dataclasses.dataclass(frozen=True, repr=False)
class ShownDiagnosis(Diagnosis):
    """A diagnosis that shows itself."""

    def __repr__(self) -> str:
        # This imports matplotlib, which takes a second.
        from qtx.pages.diagnosis import measured_on, sentences, tables

        said = sentences(self)
        parts = [f"{said[name]}\n\n{markdown(*table)}" for name, table in tables(self).items()]
        return "\n".join([f"{measured_on(self)}\n", *parts])

    def _repr_html_(self) -> str:
        from qtx.pages.diagnosis_page import diagnosis_page

        return framed(diagnosis_page(self))


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison:
    """A comparison that shows itself.

    Attributes:
      results: a line for every run, as in results.jsonl.
      workdir: the comparison's folder, with table.md and report.html.
    """

    results: Sequence[Result]
    workdir: Path

    def __repr__(self) -> str:
        return markdown(*main_table(self.results))

    def _repr_html_(self) -> str:
        return framed((self.workdir / "report.html").read_text(encoding="utf-8"))


def framed(page: str) -> str:
    """Returns HTML that shows a whole page within another one, whose styles do not mix."""
    return f'<iframe srcdoc="{escape(page)}" style="width:100%;height:{HEIGHT}px;border:0"></iframe>'
