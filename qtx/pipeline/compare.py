"""A comparison trains, measures and quantizes every attention variant with every seed, in one folder.

    results.jsonl             a line per finished run
    table.md                  mean and standard deviation over seeds
    report.html               one self-contained page
    runs/<variant>-seed<k>/   the run's own folder, as `qtx train` makes it, with results.json

Only the attention differs between the runs of a seed. A run is finished when its results.json holds every scheme that
the config asks for; a finished run is not run again, and a run that lacks a scheme is measured again but not trained
again."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from qtx.attention import AttentionConfig, attention_variant
from qtx.data import Data
from qtx.experiment import Experiment, check_warmup, record, resolved
from qtx.foundation.console import say
from qtx.foundation.errors import QtxError
from qtx.pages.results import Result, attention_table, main_table, markdown, options_in_words, read_lines, write_lines
from qtx.pipeline.assemble import Assembled, assemble
from qtx.pipeline.identity import origin
from qtx.pipeline.measure import measure
from qtx.pipeline.measurements import find_result
from qtx.pipeline.quantize import keep_quantization, quantize
from qtx.pipeline.run import train_run
from qtx.pipeline.warmup import converted
from qtx.quantization.recipes.recorded import read_entries
from qtx.training import RunFolder
from qtx.training.run_folder import IDENTITY


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a comparison.

    Attributes:
      variant: the variant's name in tables.
      experiment: what the run trains.
      workdir: the run's folder.
    """

    variant: str
    experiment: Experiment
    workdir: Path

    @property
    def title(self) -> str:
        """Returns the run's variant and seed, for people."""
        return f"{self.variant}, seed {self.experiment.seed}"


def runs(experiment: Experiment, workdir: Path) -> list[Run]:
    """Plans the runs of a comparison, all variants of the first seed first.

    Raises:
      QtxError: if the experiment itself chooses an attention, which every run would replace, or quantization-aware
        training; or if a variant anneals beyond the end of training, or cannot start from `config.start`.
    """
    if experiment.qat.scheme:
        raise QtxError(
            "config.qat.scheme is set, but a comparison's variants are quantized after training: leave it out here, "
            "and train each variant's quantized run with `qtx train`"
        )
    if experiment.model.attention != AttentionConfig():
        raise QtxError(
            "config.model.attention is set, but a comparison takes attention from config.compare.variants: name "
            "variant and options there, e.g. --config.compare.variants=\"('softmax', 'clipped_softmax,alpha=4')\""
        )
    planned = []
    for seed, variant in itertools.product(experiment.compare.seeds, experiment.compare.variants):
        model = dataclasses.replace(experiment.model, attention=attention_variant(variant))
        name = f"{experiment.name}: {variant}, seed {seed}"
        chosen = dataclasses.replace(experiment, name=name, seed=seed, model=model)
        chosen = resolved(converted(chosen) if experiment.start else chosen)
        check_warmup(chosen)
        planned.append(Run(variant, chosen, workdir / "runs" / f"{variant}-seed{seed}"))
    return planned


def begun_run(planned: Sequence[Run]) -> Path | None:
    """Returns the folder whose tokenizer all runs share: of a run that has begun, or of the runs' start; else None."""
    found = (origin(run.experiment, run.workdir) for run in planned)
    return next((folder.root for folder in found if folder is not None), None)


def check_runs(planned: Sequence[Run], identity: Mapping[str, str] | None = None) -> None:
    """Raises QtxError if a planned run's folder holds a run of another config, or on data of another `identity`."""
    known = {} if identity is None else {IDENTITY: dict(identity)}
    for run in planned:
        RunFolder(run.workdir).claim({**record(run.experiment), **known}, write=False)


def assemble_comparison(experiment: Experiment, workdir: Path) -> Assembled:
    """Assembles what all runs of a comparison share, on the data of those that have begun; raises as `check_runs`."""
    planned = runs(experiment, workdir)
    check_runs(planned)
    assembled = assemble(experiment, workdir=begun_run(planned))
    check_runs(planned, assembled.identity)
    return assembled


def run_comparison(experiment: Experiment, workdir: Path, console: Console, data: Data | None = None) -> list[Result]:
    """Finishes every run and writes results.jsonl, table.md and report.html.

    Args:
      experiment: what to compare.
      workdir: the comparison's folder.
      console: where a line per run is printed: its number among all, and the time left.
      data: the experiment's data, which all runs share, if loaded already.

    Raises:
      QtxError: as `runs` and `check_runs`, before anything is trained; or if a run diverges.
    """
    planned = runs(experiment, workdir)
    check_runs(planned)
    finished = {run.title: result for run in planned if (result := finished_result(run))}
    if finished:
        say(console, f"{len(finished)} of {len(planned)} runs are finished already")
    spent: list[float] = []
    for index, run in enumerate(planned, start=1):
        if run.title in finished:
            continue
        left = (len(planned) - len(finished)) * sum(spent) / len(spent) if spent else None
        say(
            console, f"run {index} of {len(planned)}: {run.title}" + (f" (about {duration(left)} left)" if left else "")
        )
        began = time.monotonic()
        try:
            assembled = assemble(run.experiment, data)
            finished[run.title] = bring_to_end(assembled, run, console)
        except QtxError as error:
            raise QtxError(f"run {index} of {len(planned)}, {run.title}: {error}") from None
        data = assembled.data
        spent.append(time.monotonic() - began)
        write_lines((finished[run.title] for run in planned if run.title in finished), workdir / "results.jsonl")
    write_lines((finished[run.title] for run in planned), workdir / "results.jsonl")
    return rebuild(workdir)


def bring_to_end(assembled: Assembled, run: Run, console: Console) -> Result:
    """Trains, quantizes and measures one run."""
    began = time.monotonic()
    assembled.calibration()  # raises now, and not after hours of training, if there are too few data
    trained = train_run(assembled, run.workdir)
    with console.status(escape(f"{run.title}: quantizing and measuring")):
        quantized = quantize(trained)
        keep_quantization(trained)
        return measure(trained, quantized, run.variant, began)


def finished_result(run: Run) -> Result | None:
    """Returns the result of a run that is finished under the same options, else None."""
    folder, quantization = RunFolder(run.workdir), run.experiment.quantization
    rules = quantization.recorded_rules(quantization.schemes, run.experiment.model)
    if rules and not rules.items() <= (read_entries(folder.recipe) if folder.recipe.exists() else {}).items():
        return None  # the recipe has changed since the run recorded it
    training = run.experiment.training
    result = find_result(folder, training.steps, training.eval_batches, record(run.experiment)["quantization"])
    return None if result is None else {**result, "variant": run.variant}


def rebuild(workdir: Path) -> list[Result]:
    """Writes table.md and report.html from a comparison's results.jsonl, and returns the results.

    Raises:
      QtxError: if the folder holds no comparison.
    """
    file = workdir / "results.jsonl"
    if not file.is_file():
        raise QtxError(f"{workdir} is not the folder of a comparison (no results.jsonl): start one with `qtx compare`")
    from qtx.pages.report import write_report  # draws with matplotlib, which takes a second to import

    results = read_lines(file)
    tables = [markdown(*main_table(results)), markdown(*attention_table(results))]
    options = options_in_words(result["variant"] for result in results)
    caption = f"Mean ± standard deviation over seeds, held-out data. {options}".strip()
    (workdir / "table.md").write_text(f"{caption}\n\n" + "\n".join(tables), encoding="utf-8")
    write_report(workdir)
    return results


def duration(seconds: float) -> str:
    """Formats seconds as people say them: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
