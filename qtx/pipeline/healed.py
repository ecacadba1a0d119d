"""This module writes what a healing leaves: the checkpoint, its card, a page, and what ONNX Runtime makes of it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from qtx.analysis import load_analysis
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import write_whole
from qtx.models import OF_TRAINING
from qtx.pages.healing import Story, model_card
from qtx.pipeline.export import export_huggingface
from qtx.pipeline.export_onnx import graphs_of, write_graphs
from qtx.pipeline.heal import load_experiment
from qtx.pipeline.judged import judged
from qtx.pipeline.run import load_run
from qtx.training import RunFolder

ONNX = {"recipe": "matmul", "weight_granularity": "channel", "weight_estimator": "minmax"}
"""The quantization of the graph in integers: that which is the fastest in ONNX Runtime, and keeps the most."""


def export_healed(story: Story, out: Path) -> tuple[Story, list[str]]:
    """Writes the model of a healing as a checkpoint like its original's, with the original's options of training, and
    beside it README.md, the model's card, healing.html and, where onnx is installed, the model as ONNX graphs.

    Args:
      story: the healing.
      out: the folder to write to.

    Returns:
      the story with what ONNX Runtime's quantizer makes of both checkpoints, and lines to tell the user.
    """
    before, after = story.runs[0].folder, story.runs[story.chosen].folder
    run, original = load_run(after), load_experiment(before).model
    of_training = {name: getattr(original, name) for name in OF_TRAINING}
    model = dataclasses.replace(run.assembled.experiment.model, **of_training)
    run = dataclasses.replace(run, assembled=run.assembled.with_model(model))
    notes = export_huggingface(run, out)
    try:
        graphs, told = graphs_of(run.with_quantization(**ONNX), story.bits)
        notes += [*told, *write_graphs(graphs, out)]
    except QtxError as error:  # the checkpoint is there
        notes.append(f"no ONNX files beside it: {error}")
    story = judged(story, out)
    licence = licence_of(RunFolder(before).imported)
    write_whole({out / "README.md": model_card(story, licence).encode()})
    # This draws with matplotlib, which takes a second to import.
    from qtx.pages.healing_page import write_page

    analyses = [load_analysis(folder / "analysis.npz") for folder in (before, after)]
    write_page(story, analyses[0], analyses[1], out)
    return story, notes


def licence_of(folder: Path) -> str | None:
    """Returns the licence that the card of a checkpoint's folder names, README.md; None: it names none."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    found = re.match(r"---\n(?:.*\n)*?license: *([\w.+-]+)\s*\n", text)
    return found[1] if found else None
