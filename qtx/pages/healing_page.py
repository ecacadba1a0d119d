"""This module makes the page of a healing: what the model was before and after."""

from __future__ import annotations

from pathlib import Path

from qtx import __version__
from qtx.analysis import Analysis
from qtx.pages import page, plots
from qtx.pages.healing import FIDELITY, HOW, PAGE, Story, judge_note, judge_table, sentence, stage_table

GROWTH = (
    "The largest magnitude in each layer, averaged over batches. An 8-bit grid has 256 steps from the smallest to the "
    "largest value: the further out that is, the fewer are left for all other values."
)
OUTPUTS = {"layers/mlp/out": "feed-forward output", "layers/mlp_residual": "sum after feed-forward"}


def write_page(story: Story, before: Analysis, after: Analysis, folder: Path) -> Path:
    """Writes `healing.html` into a folder and returns its path."""
    path = folder / PAGE
    path.write_text(healing_page(story, before, after), encoding="utf-8")
    return path


def healing_page(story: Story, before: Analysis, after: Analysis) -> str:
    """Returns the page of a healing as HTML, without any reference to the outside."""
    figures = []
    for index, (path, name) in enumerate(OUTPUTS.items()):
        if path in before.inf_norms and path in after.inf_norms:
            norms = {"as it came": [before.inf_norms[path]], "healed": [after.inf_norms[path]]}
            drawn = plots.over_layers(norms, "largest value")
            figures.append(page.figure(drawn, f"growth_{index}", f"Largest {name}, layer by layer", GROWTH))
    title = f"Healing of {story.name}"
    body = [
        page.heading(title, level=1),
        page.paragraph(f"{story.model}.", "lead"),
        page.bullets([sentence(story), story.ended, *([f"Before training: {story.relief}."] if story.relief else [])]),
        page.paragraph(f"{HOW}: {story.data}.", "note"),
        page.table(*stage_table(story), caption=FIDELITY),
        *_judged(story),
        page.figures(figures),
        page.definitions("The command", [("command", story.command)]),
        page.footer(f"Written by qtx {__version__}."),
    ]
    return page.page(title, body)


def _judged(story: Story) -> list[str]:
    """Returns what ONNX Runtime's quantizer says, as HTML: a table, a note, or nothing."""
    note = judge_note(story)
    if story.judged:
        return [page.table(*judge_table(story), caption=note)]
    return [page.paragraph(note, "note")] if note else []
