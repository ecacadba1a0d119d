"""This script measures what a decoder's healing left on texts that nothing was trained on, and what hangs on the seed.

    python -m experiments.decoder_healing HEALING [TEXT ...] [--seeds=3 --steps=80]

HEALING is what `qtx heal --out` was given. Of each stage: the perplexity of each text, of eight windows of 256 tokens,
in floating point and in W8A8 (`strict`, every tensor in one static range, ranges from data that the healing was trained
on). With --seeds, the first stage is repeated so many times first, with its relief, for so many updates each. Rows that
`experiments/results/healing/<name of HEALING>.jsonl` has are not measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.bad_input import told_in_a_line
from experiments.decoders_ptq import CALIBRATION, perplexity, windows
from qtx.foundation.errors import QtxError
from qtx.pipeline.assemble import assemble
from qtx.pipeline.heal import ORIGINAL, load_experiment
from qtx.pipeline.run import TrainedRun, load_run, train_run
from qtx.quantization import QuantizationConfig, Quantized, calibrate

RESULTS = Path(__file__).parent / "results" / "healing"
RANGES_FROM = 4


def seed_folder(runs: Path, steps: int, seed: int) -> Path:
    """Returns the folder of a repeated first stage."""
    return runs / f"seed_{seed}_{steps}"


def repeated(runs: Path, steps: int, seed: int) -> None:
    """Trains the first stage of a healing once more, or goes on with it."""
    first = load_experiment(runs / "stage_1")
    training = dataclasses.replace(
        first.training, steps=steps, eval_every=steps, outliers_every=steps, checkpoint_every=steps
    )
    folder = seed_folder(runs, steps, seed)
    train_run(assemble(dataclasses.replace(first, training=training, seed=seed), workdir=folder), folder)


def both(run: TrainedRun) -> tuple[Quantized, Quantized]:
    """Returns the run's model in floating point and in W8A8."""
    assembled, params = run.assembled, run.floating_point
    module: Any = assembled.module
    recipe = QuantizationConfig(recipe="strict", weight_estimator="minmax").make_recipe("w8a8", module.config)
    seen = itertools.islice(assembled.calibration(), RANGES_FROM)
    return Quantized(module, params, (), (), {}, {}), calibrate(module, params, recipe, seen, RANGES_FROM)


def runs_of(folder: Path, seeds: int, steps: int) -> Iterator[tuple[Path, int | None]]:
    """Yields the folders of runs to measure, the seed beside those of a repeated stage."""
    yield folder / ORIGINAL, None
    for stage in sorted(folder.glob("stage_*")):
        yield stage, None
    for seed in range(seeds):
        yield seed_folder(folder, steps, seed), seed


@told_in_a_line("experiments.decoder_healing")
def main(arguments: list[str] | None = None) -> int:
    """Measures the rows that the results lack, and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("healing", type=Path, help="the folder of a decoder's healing")
    parser.add_argument("texts", type=Path, nargs="*", help="each as it is, or compressed by xz")
    parser.add_argument("--seeds", type=int, default=0, help="how often the first stage is repeated (default: not)")
    parser.add_argument("--steps", type=int, default=80, help="the updates of a repetition (default %(default)s)")
    given = parser.parse_args(arguments)
    runs = given.healing / "run"
    if not (runs / "stage_1").is_dir():
        raise QtxError(f"{given.healing} holds no healing that has begun: give the folder of `qtx heal --out`")
    for seed in range(given.seeds):
        repeated(runs, given.steps, seed)
    file = RESULTS / f"{given.healing.resolve().name}.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for folder, seed in runs_of(runs, given.seeds, given.steps):
        run = load_run(folder)
        row = {"run": folder.name, "updates": run.checkpoint, "seed": seed}
        texts = [path for path in given.texts if {**row, "text": path.name} not in [_key(one) for one in done]]
        models = both(run) if texts else ()
        for path in texts:
            held_out = windows(runs / ORIGINAL, path)[CALIBRATION:]
            floating, quantized = (round(perplexity(model, held_out), 2) for model in models)
            line = json.dumps({**row, "text": path.name, "fp": floating, "w8a8": quantized})
            print(line, flush=True)
            with file.open("a") as out:
                out.write(f"{line}\n")
    return 0


def _key(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("run", "updates", "seed", "text")}


if __name__ == "__main__":
    sys.exit(main())
