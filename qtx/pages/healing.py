"""This module tells of a healing: a sentence, a table, and the card of the healed model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from qtx import __version__
from qtx.foundation.numbers import number, told_apart
from qtx.pages.results import markdown

PAGE = "healing.html"
FIDELITY = (
    "Fidelity is the cosine between the outputs of a model and of the original in floating point: of embeddings as a "
    "mean over the texts, of a head's outputs over all of them together, without their means. 1 is the same."
)
HOW = (
    "Every tensor is quantized, with one static range, from minimum to maximum. Healed and measured on different "
    "examples of"
)

JUDGE = (
    "ONNX Runtime quantizes both checkpoints too (quantize_static with its defaults, every operator): fidelity to the "
    "original in floating point, on"
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A run of a healing, measured on held-out examples.

    Attributes:
      folder: the run's folder.
      steps: the number of its updates; 0: the original.
      limit: the limit on its weights, in root mean squares of their tensor; None: the original.
      floating, quantized: fidelity to the original in floating point, and under the bits that the model is healed for.
      largest: the largest magnitude of a layer's output.
      seconds: how long training and measuring took.
      perplexities: of a decoder, in floating point and under the bits; None: the model is none.
    """

    folder: Path
    steps: int
    limit: float | None
    floating: float
    quantized: float
    largest: float
    seconds: float
    perplexities: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Judged:
    """The fidelity, in ONNX Runtime's int8, to the original in floating point.

    Attributes:
      weights: what shares a grid of the weights, e.g. "per tensor".
      before, after: of the original, and of the healed checkpoint.
      texts: on how many texts.
    """

    weights: str
    before: float
    after: float
    texts: int


@dataclasses.dataclass(frozen=True)
class Story:
    """A `Story` says what a healing did.

    Attributes:
      name: the model's name.
      model: the model in words.
      data: the texts or images that it was healed and measured on, in words.
      bits: the scheme that was healed for, e.g. "w8a8".
      runs: the original, then the stages.
      chosen: the index of the run that was taken.
      ended: why the healing ended, in a sentence.
      command: the command that did it.
      judged: what ONNX Runtime's quantizer makes of the original and of the run that was taken.
      unjudged: why that is not known, if it is not.
      relief: what was changed of a decoder before it was trained, in words; empty: nothing.
    """

    name: str
    model: str
    data: str
    bits: str
    runs: Sequence[Stage]
    chosen: int
    ended: str
    command: str
    judged: Sequence[Judged] = ()
    unjudged: str = ""
    relief: str = ""


def sentence(story: Story) -> str:
    """Says what became of the model."""
    before, after = story.runs[0], story.runs[story.chosen]
    quantized = " to ".join(_fidelity(one.quantized) for one in (before, after))
    largest = " to ".join(number(one.largest) for one in (before, after))
    told = (
        f"In {story.bits.upper()} its fidelity went from {quantized}; in floating point it is "
        f"{_fidelity(after.floating)}, and its largest value went from {largest}."
    )
    if before.perplexities is None or after.perplexities is None:
        return told
    now, integers = (
        " to ".join(map(number, both)) for both in zip(before.perplexities, after.perplexities, strict=True)
    )
    return f"{told} Its perplexity went from {now} in floating point, and from {integers} in {story.bits.upper()}."


def stage_table(story: Story) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows: the original, and every stage."""
    header = ["", "updates", "weights within", "fidelity, floating point", f"{story.bits.upper()}", "largest value"]
    decoder = story.runs[0].perplexities is not None
    header += ["perplexity, floating point", story.bits.upper()] if decoder else []
    rows = []
    for index, one in enumerate(story.runs):
        name = "as it came" if not one.steps else f"stage {index}"
        limit = "" if one.limit is None else f"{one.limit:g} rms"
        updates = str(one.steps) if one.steps else ""
        rows.append([name, updates, limit, _fidelity(one.floating), _fidelity(one.quantized), number(one.largest)])
        rows[-1] += [number(value) for value in one.perplexities or ()]
    return header, rows


def judge_table(story: Story) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows: what ONNX Runtime's int8 leaves, before and after."""
    rows = [[f"weights {one.weights}", *map(_fidelity, (one.before, one.after))] for one in story.judged]
    return ["int8 by ONNX Runtime", "as it came", "healed"], rows


def judge_note(story: Story) -> str:
    """Says in a sentence what `judge_table` has, or why there is none; nothing if nobody has asked."""
    if story.judged:
        return f"{JUDGE} {story.judged[0].texts} texts of 128 tokens of the prose that comes with Python."
    return f"ONNX Runtime's quantizer was not asked: {story.unjudged}." if story.unjudged else ""


def model_card(story: Story, licence: str | None) -> str:
    """Returns the README.md of the healed model's folder, with the metadata that the Hugging Face Hub reads."""
    header, rows = stage_table(story)
    metadata = [*([f"license: {licence}"] if licence else []), "tags:", "- quantization", "- qtx"]
    judged = [markdown(*judge_table(story)).strip(), ""] if story.judged else []
    judged += [note, ""] if (note := judge_note(story)) else []
    told = f"{licence}, the original's" if licence else "that of the original, whose folder does not name it"
    return "\n".join(
        [
            "---",
            *metadata,
            "---",
            "",
            f"# {story.name}, healed for {story.bits.upper()}",
            "",
            f"The same model ({story.model}), trained to stay what it was and to survive integers.",
            f"{sentence(story)} {story.ended}",
            *([f"Before it was trained: {story.relief}."] if story.relief else []),
            "",
            markdown(header, rows).strip(),
            "",
            f"{FIDELITY} {HOW}: {story.data}.",
            "",
            *judged,
            f"Made by qtx {__version__}:",
            "",
            f"    {story.command}",
            "",
            f"Licence: {told}.",
            "",
        ]
    )


def _fidelity(value: float) -> str:
    return told_apart(value, 3, "f")
