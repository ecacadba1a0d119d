"""`make demo`: a real model that eight bits ruin is diagnosed and healed.

    python -m experiments.demo [FOLDER]

Every step is a command of qtx's, printed as one would type it. Started again, it goes on with what is not finished.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from qtx.cli.main import main as qtx
from qtx.cli.main import own_process

FOLDER = Path("runs/demo")
ANALYZING = ("--config.training.batch_size=8", "--config.training.eval_batches=8", "--config.data.min_length=16")
HEALING = ("--steps=40", "--config.training.eval_batches=8")


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the story.

    Attributes:
      title: in a few words.
      look: what it does, and what to look at.
      command: the command's arguments.
      page: what the command writes last, a page to look at.
    """

    title: str
    look: str
    command: Sequence[str]
    page: Path


def story(folder: Path, analyzing: Sequence[str] = ANALYZING, healing: Sequence[str] = HEALING) -> list[Step]:
    """The steps in a folder; the flags say how much each of them does."""
    patient, healed = folder / "minilm-2l", folder / "minilm-2l-healed"
    return [
        Step(
            "a diagnosis",
            "Two layers of a published sentence encoder. Look at the first table: at [CLS], one dimension is a\n"
            "hundred times as large as all else; an 8-bit grid that reaches so far has few steps left for the rest.",
            ("analyze", "builtin:minilm-2l", f"--workdir={patient}", *analyzing),
            patient / "report.html",
        ),
        Step(
            "healing",
            "The model learns to stay what it is, with a limit on its weights and with half of every batch quantized.\n"
            "It needs no labels. Look at the column W8A8: fidelity, the cosine of its embeddings to those of the\n"
            "original, before and after. What comes out has the original's format: its files take their place.",
            ("heal", "builtin:minilm-2l", f"--out={healed}", *healing),
            healed / "healing.html",
        ),
    ]


def tell(steps: Sequence[Step]) -> int:
    """Runs what is not finished, and returns the exit code of the first command that fails, or 0."""
    for number, step in enumerate(steps, start=1):
        typed = shlex.join(["qtx", *step.command])
        print(f"\n== {number} of {len(steps)}: {step.title}\n{step.look}\n\n$ {typed}", flush=True)
        if step.page.is_file():
            print(f"finished already: {step.page}")
        elif code := qtx(step.command):
            return code
    return 0


def main(folder: Path = FOLDER) -> int:
    return tell(story(folder))


if __name__ == "__main__":
    own_process()
    sys.exit(main(*map(Path, sys.argv[1:2])))
