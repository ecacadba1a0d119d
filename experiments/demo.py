"""`make demo`: a real model that eight bits ruin is diagnosed and healed, and quantized before and after.

    python -m experiments.demo [FOLDER]

Every step is a command of qtx's, printed as one would type it. Started again, it goes on with what is not finished.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qtx.cli.main import main as qtx
from qtx.cli.main import own_process
from qtx.pipeline.measurements import FLOATING_POINT, read_measurements
from qtx.training import RunFolder

FOLDER = Path("runs/demo")
FEW = "--config.training.eval_batches=8"
IMPORTING = ("--config.training.batch_size=8", FEW, "--config.data.min_length=16")
HEALING = (FEW,)
COMPARING = (
    *("--config.training.steps=200", "--config.training.warmup_steps=20", "--config.compare.seeds=(0,)"),
    "--config.compare.variants=('softmax', 'gated_linear')",
    "--config.quantization.schemes=('w8a8',)",
)
WEIGHTS = {"minmax": "min-max weights", "mse": "MSE weights"}


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the story.

    Attributes:
      title: in a few words.
      look: what it does, and what to look at.
      commands: the arguments of each of its commands, and what that makes (None: it knows itself what is finished).
    """

    title: str
    look: str
    commands: Sequence[tuple[Sequence[str], Made | None]]


@dataclasses.dataclass(frozen=True)
class Made:
    """A run's diagnosis, or its measurement at W8A8 under an estimator of the weights' ranges."""

    run: Path
    estimator: str | None = None

    def there(self) -> bool:
        if self.estimator is None:
            return (self.run / "diagnosis.json").is_file()
        return bool(measured(self.run, self.estimator))


def story(
    folder: Path,
    importing: Sequence[str] = IMPORTING,
    healing: Sequence[str] = HEALING,
    comparing: Sequence[str] = COMPARING,
) -> list[Step]:
    """The steps in a folder; the flags say how much of the import, of healing and of the comparison is done."""
    patient, healed = folder / "minilm-2l", folder / "healed"

    def quantize(run: Path) -> list[tuple[Sequence[str], Made]]:
        command = ("quantize", f"--workdir={run}", "--scheme=w8a8")
        return [((*command, f"--config.quantization.weight_estimator={name}"), Made(run, name)) for name in WEIGHTS]

    return [
        Step(
            "a diagnosis",
            "Two layers of a published sentence encoder. Look at the first table: at [CLS], one dimension is a\n"
            "hundred times as large as all else; an 8-bit grid that reaches so far has few steps left for the rest.",
            [(("analyze", "builtin:minilm-2l", f"--workdir={patient}", *importing), Made(patient))],
        ),
        Step(
            "W8A8, before",
            "Weights' ranges from minimum to maximum, then by least squares (MSE). Look at the last column: fidelity,\n"
            "the cosine of its embeddings to those of the original.",
            quantize(patient),
        ),
        Step(
            "healing, for three minutes",
            "The model learns to stay what it is, with a limit on its weights and with half of every batch quantized.\n"
            "It needs no labels.",
            [(("train", "--config=heal_bert", f"--config.start={patient}", f"--workdir={healed}", *healing), None)],
        ),
        Step(
            "W8A8, after",
            f"The same of the healed model. Look at the largest value (max inf. norm) too. `qtx analyze {healed}`\n"
            "says what is left.",
            quantize(healed),
        ),
        Step(
            "from scratch",
            "Two kinds of attention, trained for seconds. Look at the columns FP and W8A8: models so small and so\n"
            "young have no outliers yet, and quantize equally well. `make demo-compare` trains more, for longer.",
            [(("compare", "--config=demo", f"--workdir={folder / 'compare'}", *comparing), None)],
        ),
    ]


def measured(run: Path, estimator: str | None = None) -> dict[str, Any]:
    """What was last measured of a run at W8A8 under an estimator of the weights' ranges, or in floating point; empty if
    nothing was."""
    scheme = FLOATING_POINT if estimator is None else "w8a8"
    found = [
        one["values"]
        for one in read_measurements(RunFolder(run))["measurements"]
        if one["scheme"] == scheme and (estimator is None or one["options"]["weight_estimator"] == estimator)
    ]
    return found[-1] if found else {}


def before_and_after(folder: Path) -> list[str]:
    """What healing changed, from the results of both runs."""

    def change(name: str, form: str, estimator: str | None = None) -> str:
        return " -> ".join(format(measured(folder / run, estimator)[name], form) for run in ("minilm-2l", "healed"))

    return [
        f"largest feed-forward output: {change('max_inf_norm', '.3g')}",
        f"floating point: fidelity {change('fidelity', '.3f')}, error {change('loss', '.3f')}",
        *(
            f"W8A8, {title}: fidelity {change('fidelity', '.3f', name)}, error {change('loss', '.3f', name)}"
            for name, title in WEIGHTS.items()
        ),
    ]


def typed(command: Sequence[str]) -> str:
    """A command line as one would type it."""
    return " ".join(["qtx", *(f'"{part}"' if re.search(r"[ '()]", part) else part for part in command)])


def tell(folder: Path, steps: Sequence[Step]) -> int:
    """Runs what is not finished, and returns the exit code of the first command that fails, or 0."""
    for number, step in enumerate(steps, start=1):
        print(f"\n== {number} of {len(steps)}: {step.title}\n{step.look}")
        for command, made in step.commands:
            print(f"\n$ {typed(command)}", flush=True)
            if made is not None and made.there():
                print(f"finished already: {made.run}")
            elif code := qtx(command):
                return code
    print("\n== before -> after", *before_and_after(folder), sep="\n")
    return 0


def main(folder: Path = FOLDER) -> int:
    return tell(folder, story(folder))


if __name__ == "__main__":
    own_process()
    sys.exit(main(*map(Path, sys.argv[1:2])))
