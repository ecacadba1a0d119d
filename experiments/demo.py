"""`make demo`: a real model that eight bits ruin is diagnosed and healed, and quantized before and after.

    python -m experiments.demo [FOLDER]

Every step is a command of qtx's, printed as one would type it. Started again, it goes on with what is not finished.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qtx.cli.main import main as qtx
from qtx.pipeline import measurements
from qtx.training import RunFolder

FOLDER = Path("runs/demo")
MEASURING = ("--config.training.batch_size=8", "--config.training.eval_batches=8")
COMPARING = (
    *("--config.compare.seeds=(0,)", "--config.training.steps=200", "--config.training.warmup_steps=20"),
    "--config.compare.variants=('softmax', 'clipped_softmax,alpha=2,gamma_warmup_steps=100', 'gated_linear', 'none')",
)
WEIGHTS = {"minmax": "min-max weights", "mse": "MSE weights"}


@dataclasses.dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
      says: what it does, and what to look at; empty: the step before has said it.
      command: its arguments.
      made: what it makes; None: the command itself knows what is finished.
    """

    says: str
    command: tuple[str, ...]
    made: Made | None = None


@dataclasses.dataclass(frozen=True)
class Made:
    """A run's diagnosis, or its measurements at W8A8 by a way to choose the weights' ranges."""

    run: Path
    weights: str | None = None

    def there(self) -> bool:
        return (self.run / "diagnosis.json").is_file() if self.weights is None else bool(values(self.run, self.weights))


def story(
    folder: Path,
    measuring: Sequence[str] = MEASURING,
    healing: Sequence[str] = (),
    comparing: Sequence[str] = COMPARING,
) -> list[Step]:
    """The steps; the flags say on how much is measured, how long is healed, and what is compared."""
    patient, healed = folder / "minilm-2l", folder / "healed"

    def quantize(run: Path, says: str) -> list[Step]:
        command = ("quantize", f"--workdir={run}", "--scheme=w8a8")
        return [
            Step(
                says if weights == "minmax" else "",
                (*command, f"--config.quantization.weight_estimator={weights}"),
                Made(run, weights),
            )
            for weights in WEIGHTS
        ]

    return [
        Step(
            "Diagnosis: two layers of a published sentence encoder. Look at the first table: at [CLS], dimension 99 is "
            "a hundred times as large as all else, and an 8-bit grid that reaches it has no steps left for the rest.",
            ("analyze", "builtin:minilm-2l", f"--workdir={patient}", *measuring),
            Made(patient),
        ),
        *quantize(
            patient,
            "Before: W8A8, with weights' ranges from minimum to maximum, then by least squares (MSE). Look at the last "
            "column: fidelity, the cosine of the embeddings to the original's.",
        ),
        Step(
            "Healing: the model learns to stay what it is, with a penalty on large values, for two minutes.",
            ("train", "--config=heal_bert", f"--config.start={patient}", f"--workdir={healed}", *measuring, *healing),
        ),
        *quantize(healed, "After: the same of the healed model. Look at the largest value (max inf. norm), too."),
        Step(
            "Diagnosis of the healed model: the first table again.",
            ("analyze", str(healed)),
            Made(healed),
        ),
        Step(
            "From scratch: four kinds of attention, trained for seconds. Models so small and so young have no outliers "
            "yet: all of them are the same at W8A8. `make demo-compare` trains them longer.",
            ("compare", "--config=demo", f"--workdir={folder / 'compare'}", *comparing),
        ),
    ]


def values(run: Path, weights: str | None = None) -> dict[str, Any]:
    """The newest measurement of a run at W8A8, with the weights' ranges of an estimator, or in floating point; empty if
    there is none."""
    scheme = measurements.FLOATING_POINT if weights is None else "w8a8"
    found = [
        one["values"]
        for one in measurements.read(RunFolder(run))["measurements"]
        if one["scheme"] == scheme and (weights is None or one["options"]["weight_estimator"] == weights)
    ]
    return found[-1] if found else {}


def before_and_after(folder: Path) -> list[str]:
    """What healing changed, in lines, from the results of both runs."""
    runs = folder / "minilm-2l", folder / "healed"

    def change(name: str, form: str, weights: str | None = None) -> str:
        return " -> ".join(format(values(run, weights)[name], form) for run in runs)

    quantized = [
        f"W8A8, {title}: fidelity {change('fidelity', '.3f', weights)}, error {change('loss', '.3f', weights)}"
        for weights, title in WEIGHTS.items()
    ]
    return [
        f"largest value: {change('max_inf_norm', '.3g')}",
        *quantized,
        f"floating point: fidelity {change('fidelity', '.3f')}",
    ]


def run(folder: Path, steps: Sequence[Step]) -> int:
    """Runs the steps that are not finished, and returns the exit code of the first that fails, or 0."""
    headings = sum(bool(step.says) for step in steps)
    number = 0
    for step in steps:
        if step.says:
            number += 1
            print(f"\n== {number} of {headings} == {step.says}", flush=True)
        print(f"\n$ qtx {shlex.join(step.command)}", flush=True)
        if step.made is not None and step.made.there():
            print(f"finished already: see {step.made.run}")
        elif code := qtx(step.command):
            return code
    print("\n== before -> after ==\n")
    print("\n".join(before_and_after(folder)))
    return 0


def main(folder: Path = FOLDER) -> int:
    return run(folder, story(folder))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
