"""The paper's Table 10 at small scale: variants x bits x weight estimators, over training and calibration seeds.

    python -m experiments.table10 --workdir=runs/tiny_bert [--config=configs/tiny_bert.py] [--methods]

Trains the config's variants and seeds (runs that are finished are not trained again), then calibrates each model under
every scheme with min-max and with MSE weight ranges, once per calibration seed (which training batches it sees), and
measures it on the held-out data. Writes `table10.jsonl`, a line per measurement, and `table10.md`, mean and standard
deviation over training and calibration seeds. With --methods, the rows are post-training methods instead: what others
would do to a model trained with softmax, for one training and one calibration seed (`methods.jsonl`, `methods.md`).
A measurement that is already in the
file is not made again.
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

from rich.console import Console

from qtx.analysis.capture import FloatingPoint
from qtx.cli.flags import load_config_file
from qtx.data import OBJECTIVES
from qtx.experiment import read
from qtx.foundation.console import say
from qtx.foundation.errors import QtxError
from qtx.foundation.numbers import mean_and_deviation
from qtx.foundation.storage import Expected, parse_json, write_whole
from qtx.pages.results import markdown, short_names
from qtx.pipeline.assemble import Assembled, Batches, assemble
from qtx.pipeline.compare import Run, runs
from qtx.pipeline.measure import metrics_of
from qtx.pipeline.run import train_run
from qtx.quantization import calibrate
from qtx.quantization.methods import METHODS

SCHEMES = ("w8a8", "w6a8", "w4a8", "w6a6")
METHOD_SCHEMES = ("w8a8", "w6a6", "w4a4")
CALIBRATION_SEEDS = (0, 1, 2)
Line = dict[str, Any]
EXPECTED = Expected("a measurement of this table", "delete the line, and it is measured again")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One way to quantize: the columns and rows of the table."""

    scheme: str
    weight_estimator: str
    method: str


def cells(methods: bool) -> list[Cell]:
    """What every model is quantized to."""
    if methods:
        return [Cell(scheme, "auto", method) for scheme, method in itertools.product(METHOD_SCHEMES, METHODS)]
    return [Cell(scheme, estimator, "static") for scheme, estimator in itertools.product(SCHEMES, ("minmax", "mse"))]


def measurements(run: Run, assembled: Assembled, params: Any, methods: bool, done: set[tuple]) -> Iterator[Line]:
    """The lines of one trained model that are not in `done`, floating point first."""
    metric = OBJECTIVES[assembled.experiment.objective].metric
    row = {"variant": run.variant, "seed": run.experiment.seed, "metric": metric}

    def metric_of(model: Any) -> float:
        return metrics_of(assembled, model)[metric]

    if key(row | {"scheme": "fp"}) not in done:
        yield row | {"scheme": "fp", "value": metric_of(FloatingPoint(assembled.module, params))}
    for cell, seed in itertools.product(cells(methods), CALIBRATION_SEEDS[: 1 if methods else None]):
        line = row | dataclasses.asdict(cell) | {"calibration_seed": seed}
        if key(line) in done:
            continue
        config = dataclasses.replace(
            assembled.experiment.quantization, weight_estimator=cell.weight_estimator, method=cell.method
        )
        quantized = calibrate(
            assembled.module,
            params,
            config.make_recipe(cell.scheme, assembled.module.config),
            Batches(assembled.mesh, assembled.data.calibration(assembled.batch_size, seed)),
            config.calibration_batches,
            config.make_method(),
        )
        yield line | {"value": metric_of(quantized)}


def read_complete(file: Path) -> list[Line]:
    """The lines of a file, which is left with these alone: not the last one if a run was stopped while writing it.

    Raises:
      QtxError: for another line that is no measurement.
    """
    if not file.is_file():
        return []
    whole, _, _ = file.read_bytes().rpartition(b"\n")
    lines = [
        parse_json(text, f"line {number} of {file}", EXPECTED, finite=False)
        for number, text in enumerate(whole.split(b"\n"), start=1)
        if text
    ]
    write_whole({file: "".join(json.dumps(line) + "\n" for line in lines).encode()})
    return lines


def key(line: Line) -> tuple:
    """What tells a measurement from the others."""
    return tuple(
        line.get(name) for name in ("variant", "seed", "scheme", "weight_estimator", "method", "calibration_seed")
    )


def table(lines: list[Line], methods: bool) -> str:
    """Markdown: a row per scheme and estimator (or method), a column per variant."""
    names = short_names(line["variant"] for line in lines)
    row_name = "method" if methods else "weight_estimator"
    header = ["bits", "method" if methods else "weight ranges", *names.values()]
    rows = []
    groups = dict.fromkeys((line["scheme"], line.get(row_name, "")) for line in lines)
    for scheme, name in sorted(groups, key=lambda group: group[0] != "fp"):
        of_group = [line for line in lines if (line["scheme"], line.get(row_name, "")) == (scheme, name)]
        values = {v: [line["value"] for line in of_group if line["variant"] == v] for v in names}
        rows.append([scheme.upper(), name, *(mean_and_deviation(v) if v else "" for v in values.values())])
    return markdown(header, rows)


def main(arguments: list[str] | None = None) -> int:
    """Runs the experiment; exit code 2 for a user's mistake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="the comparison's folder")
    parser.add_argument("--config", default="configs/tiny_bert.py", help="what to train")
    parser.add_argument("--methods", action="store_true", help="compare post-training methods")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        measure_all(options.config, options.workdir, options.methods, console)
    except QtxError as error:
        print(f"table10: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def measure_all(config: str, workdir: Path, methods: bool, console: Console) -> None:
    """Trains what is not trained, measures what is not measured, and writes both files."""
    planned = runs(read(load_config_file(config)), workdir)
    if methods:
        planned = [run for run in planned if run.experiment.seed == planned[0].experiment.seed]
    name, data = "methods" if methods else "table10", None
    file = workdir / f"{name}.jsonl"
    lines = read_complete(file)
    done = set(map(key, lines))
    for index, run in enumerate(planned, start=1):
        say(console, f"run {index} of {len(planned)}: {run.title}")
        assembled = assemble(run.experiment, data)
        data = assembled.data
        params = train_run(assembled, run.workdir).floating_point
        with file.open("a") as out:
            for line in measurements(run, assembled, params, methods, done):
                lines.append(line)
                print(json.dumps(line), file=out, flush=True)
    text = table(lines, methods)
    (workdir / f"{name}.md").write_text(text)
    say(console, text)


if __name__ == "__main__":
    sys.exit(main())
