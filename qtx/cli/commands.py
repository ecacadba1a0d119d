"""The functions of the commands: most print their config's summary first, then work, then print their result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from qtx.analysis.capture import FloatingPoint
from qtx.analysis.diagnosis import save_diagnosis
from qtx.analysis.sensitivity import HEADER, save_sweep, table_rows
from qtx.attention import attention_text
from qtx.cli.summary import print_summary
from qtx.data import prepare_data
from qtx.data.prepared.summary import describe
from qtx.experiment import Experiment, record
from qtx.foundation.console import Console, say
from qtx.foundation.distributed import initialize, is_main
from qtx.foundation.errors import QtxError, lookup
from qtx.foundation.hardware import CHIPS
from qtx.foundation.numbers import fixed, number
from qtx.foundation.paths import at_home
from qtx.interop.stored import open_folder
from qtx.losses.binary_cross_entropy import OF_LABEL
from qtx.pages.healing import FIDELITY, PAGE, Story, judge_note, judge_table, sentence, stage_table
from qtx.pages.mixed import mixed_sentence, mixed_table
from qtx.pages.results import ATTENTION_COLUMNS, BESIDE_TITLES, OUTLIER_COLUMNS, Result, main_table, markdown, measured
from qtx.pipeline.analyze import diagnose, open_run
from qtx.pipeline.assemble import assemble
from qtx.pipeline.backend import training_backend
from qtx.pipeline.compare import assemble_comparison, duration, rebuild, run_comparison
from qtx.pipeline.formats import FORMATS
from qtx.pipeline.generate import TOKENS, check_generates
from qtx.pipeline.generate import generate as generate_text
from qtx.pipeline.heal import Aim
from qtx.pipeline.heal import heal as heal_model
from qtx.pipeline.healed import export_healed
from qtx.pipeline.importing import Found, import_run
from qtx.pipeline.measure import CALIBRATED, measure, metrics_of
from qtx.pipeline.measurements import BESIDE
from qtx.pipeline.mixed import Goal, read_goal, to_target
from qtx.pipeline.quantize import (
    keep_quantization,
    keep_ranges,
    one_scheme,
    origin_of_ranges,
    ranges_file,
    with_ranges,
)
from qtx.pipeline.quantize import quantize as quantize_run
from qtx.pipeline.run import TrainedRun, assemble_exported, assemble_run, restore_run, train_run
from qtx.pipeline.sensitivity import find_sensitivity
from qtx.planning import devices_of, plan_step, virtual_devices
from qtx.planning import table as plan_table
from qtx.quantization import Quantized
from qtx.quantization.integer import load
from qtx.quantization.integer.files import DESCRIPTION
from qtx.quantization.recipe import FLOAT
from qtx.training import NEWEST, RunFolder, read_metrics


def plan(experiment: Experiment, devices: str | None = None, chip: str | None = None) -> None:
    """Runs `qtx plan` for `devices`, their number as text, and `chip`, a name in `qtx.foundation.hardware.CHIPS`."""
    console = Console()
    if chip is not None:
        lookup(CHIPS, "chip", chip)
    if devices is not None and not (devices.isdecimal() and int(devices)):
        raise QtxError(f"--devices={devices}: expected a positive integer")
    found = plan_step(experiment, virtual_devices(int(devices) if devices else devices_of(experiment)))
    for line in plan_table.describe(found):
        say(console, line)
    for title, (header, rows) in plan_table.tables(found).items():
        print_table(title, header, rows, console)
    say(console, "")
    for line in (*plan_table.NOTES, *(plan_table.verdict(found, chip) if chip else [plan_table.fitting_chips(found)])):
        say(console, line)


def prepare(experiment: Experiment) -> None:
    """Runs `qtx prepare`."""
    console = Console()
    for written in prepare_data(experiment.data, experiment.objective):
        for line in describe(written):
            say(console, line)


def import_(experiment: Experiment, workdir: Path, source: Found) -> None:
    """Runs `qtx import`."""
    console = Console()
    with console.status("importing"):
        assembled = import_run(experiment, workdir, source)
        left_out = open_folder(source.folder).left_out(assembled.experiment.model)
    print_summary(assembled, workdir, console)
    if left_out:
        say(console, f"no part of the model, and given back by an export: {', '.join(left_out)}")
    say(console, f"imported {source.source}: next: qtx quantize --workdir={quote(str(workdir))}")


def analyze(
    experiment: Experiment, workdir: Path, source: Found | None = None, names_data: bool = False, thorough: bool = False
) -> None:
    """Runs `qtx analyze` on the checkpoint `source`, or on the run in the folder if that is None."""
    console = Console()
    began = time.monotonic()
    with console.status("reading model and data") as status:
        run = open_run(experiment, workdir, source, names_data)
        found = diagnose(run, thorough=thorough, tell=lambda step: status.update(escape(step)))
        file = save_diagnosis(found, workdir)
    # These draw with matplotlib, which takes a second to import.
    from qtx.pages.diagnosis import measured_on, sentences, tables
    from qtx.pages.diagnosis_page import write_page

    report = write_page(found, workdir)
    said = sentences(found)
    say(console, measured_on(found))
    for name, (header, rows) in tables(found).items():
        print_table(said[name], header, rows, console)
    say(console, f"took {duration(time.monotonic() - began)}")
    say(console, f"diagnosis: {file}")
    say(console, f"report: {report}")


def generate(
    experiment: Experiment,
    workdir: Path,
    prompt: str,
    tokens: str = str(TOKENS),
    source: Found | None = None,
    names_data: bool = False,
    names_scheme: bool = False,
) -> None:
    """Runs `qtx generate` on the checkpoint `source`, or on the run in the folder if that is None; in the saved ranges
    of the first scheme if the user names a scheme."""
    number, console = _number("tokens", int, tokens), Console()
    check_generates(experiment.model)
    with Console(stderr=True).status("reading model and data"):
        run = open_run(experiment, workdir, source, names_data)
    model: FloatingPoint | Quantized = FloatingPoint(run.assembled.module, run.floating_point)
    if names_scheme:
        scheme = experiment.quantization.schemes[0]
        file = ranges_file(workdir, scheme)
        if not file.is_file():
            raise QtxError(
                f"{workdir} has no ranges of {scheme}: first qtx quantize --workdir={quote(str(workdir))} "
                f"--scheme={scheme}"
            )
        model = with_ranges(run, file)[scheme]
    say(console, prompt + generate_text(run, model, prompt, number))


def heal(experiment: Experiment, out: Path, source: Found, command: str, **named: Any) -> None:
    """Runs `qtx heal`, the command line `command`; `named` are options of an `Aim`, numbers as text."""
    console = Console()
    kinds = {"steps": int, "hours": float, "target": float}
    given: dict[str, Any] = {
        name: _number(name, kinds[name], text) if name in kinds else text for name, text in named.items()
    }
    aim = Aim(prefix=not given.pop("no-prefix", False), **given)
    began = time.monotonic()
    story = heal_model(experiment, source, out / "run", aim, command, tell=lambda line: say(console, line))
    chosen = story.runs[story.chosen]
    print_table(f"{story.name}: {FIDELITY}", *stage_table(story), console)
    say(console, story.ended)
    if not chosen.steps:
        return
    with console.status("exporting, and asking ONNX Runtime's quantizer"):
        story, notes = export_healed(story, out)
    print_judged(story, console)
    for line in (sentence(story), *notes, f"took {duration(time.monotonic() - began)}"):
        say(console, line)
    say(console, f"healed model: {out}")
    say(console, f"report: {out / PAGE}")


BESIDE_IN_WORDS: dict[str, tuple[str, Callable[[float], str]]] = {
    "centred_fidelity": ("fidelity of what the embeddings differ by", fixed),
    "perplexity": ("perplexity", number),
}


def print_judged(story: Story, console: Console) -> None:
    """Prints what ONNX Runtime's quantizer says of a healing, or why it says nothing."""
    if story.judged:
        print_table(judge_note(story), *judge_table(story), console)
    else:
        say(console, judge_note(story))


def _number(name: str, kind: type, text: str) -> Any:
    """Reads the value of a flag."""
    try:
        return kind(text)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise QtxError(f"--{name}={text}: expected {expected}") from None


def train(experiment: Experiment, workdir: Path, distributed: bool = False, profile: bool = False) -> None:
    """Runs `qtx train`; `distributed`: as one of many processes, of which one prints; `profile`: traces a few steps."""
    if distributed:
        initialize()
    console = Console(quiet=not is_main())
    RunFolder(workdir).claim(record(experiment), write=False)
    assembled = assemble(experiment, workdir=workdir)
    print_summary(assembled, workdir, console, training_backend(assembled, workdir))
    train_run(assembled, workdir, profile)
    last = read_metrics(workdir, "eval")[-1]
    metric = assembled.objective.metric
    say(console, f"trained {last['step']} steps: held-out loss {fixed(last['loss'])}, {shown(metric, last[metric])}")
    say(console, f"next: qtx {'evaluate' if experiment.qat.scheme else 'quantize'} --workdir={quote(str(workdir))}")


def evaluate(experiment: Experiment, workdir: Path, checkpoint: str = NEWEST, names_data: bool = False) -> None:
    """Runs `qtx evaluate`: on the folder of an exported model in integers, otherwise in floating point."""
    console = Console()
    if (workdir / DESCRIPTION).is_file():
        evaluate_integers(experiment, workdir, console, names_data)
        return
    began = time.monotonic()
    run = open_and_tell(experiment, workdir, console, checkpoint, names_data)
    with console.status("measuring"):
        result = measure(run, {}, attention_text(experiment.model.attention), began)
    rows = [["loss", number(result["loss"])], ["metric", shown(result["metric"], result["fp"])]]
    rows += beside(result, result["metric"])
    rows += [[f"trained for {name.upper()}", shown(result["metric"], q)] for name, q in result["quantized"].items()]
    rows += [
        [title, number(result[key])] for key, title in (OUTLIER_COLUMNS | ATTENTION_COLUMNS).items() if key != "loss"
    ]
    print_table(f"{run.title}: held-out data, floating point", ["measurement", "value"], rows, console)
    say(console, f"results: {workdir / 'results.json'}")


def quantize(
    experiment: Experiment,
    workdir: Path,
    ranges: str | None = None,
    checkpoint: str = NEWEST,
    names_data: bool = False,
    target: str | None = None,
    exempt: str | None = None,
) -> None:
    """Runs `qtx quantize`.

    Args:
      experiment: the run's.
      workdir, checkpoint, names_data: as of `open_and_tell`.
      ranges: a file with the ranges of one scheme, to use instead of calibrating.
      target: what the first scheme is to reach with as few tensors as possible at more bits, which are `exempt` bits,
        as text.
    """
    goal, bits = read_target(target, exempt, ranges)
    console = Console()
    began = time.monotonic()
    run = open_and_tell(experiment, workdir, console, checkpoint, names_data)
    if goal is not None:
        run = mixed(run, goal, bits, console)
    with console.status("quantizing and measuring"):
        schemes = with_ranges(run, at_home(ranges)) if ranges else quantize_run(run)
        keep_quantization(run)
        result = measure(run, schemes, attention_text(experiment.model.attention), began, ranges or CALIBRATED)
        files = keep_ranges(run, schemes)
    print_table(f"{run.title}: held-out data, floating point and quantized", *main_table([result]), console)
    if goal is None and run.assembled.experiment.quantization.exempt:
        say(console, f"exempt: {', '.join(run.assembled.experiment.quantization.exempt)}")
    for name, of_all in BESIDE.items():
        if of_all in result:
            words, write = BESIDE_IN_WORDS[name]
            by_scheme = {"fp": result[name], **result[of_all]}
            say(console, f"{words}: {', '.join(f'{key.upper()} {write(value)}' for key, value in by_scheme.items())}")
    say(console, f"results: {workdir / 'results.json'}")
    say(console, f"ranges: {', '.join(map(str, files))}")


def read_target(target: str | None, exempt: str | None, ranges: str | None) -> tuple[Goal | None, int]:
    """Reads the flags `--target` and `--exempt`: what is to be reached, and the bits of what is left out."""
    if target is None and exempt is not None:
        raise QtxError("--exempt is about the tensors that --target=NUMBER finds: give that too")
    if target is None:
        return None, 0
    if ranges:
        raise QtxError("--target calibrates: leave --ranges out")
    if exempt not in (None, FLOAT, "16"):
        raise QtxError(f"--exempt={exempt}: expected {FLOAT} or 16")
    return read_goal(target), 16 if exempt == "16" else 0


def mixed(run: TrainedRun, goal: Goal, bits: int, console: Console) -> TrainedRun:
    """Returns the run with the tensors exempt by which its first scheme reaches a goal, and prints them."""
    scheme = run.assembled.experiment.quantization.schemes[0]
    with console.status("looking") as status:
        run, found = to_target(run, scheme, goal, bits, lambda step: status.update(escape(step)))
    if found.exempt:
        print_table(f"{run.title}: exempt from {scheme}", *mixed_table(found), console)
    say(console, mixed_sentence(found))
    return run


def sensitivity(
    experiment: Experiment,
    workdir: Path,
    checkpoint: str = NEWEST,
    names_data: bool = False,
    names_scheme: bool = False,
) -> None:
    """Runs `qtx sensitivity`."""
    console = Console()
    run = open_and_tell(experiment, workdir, console, checkpoint, names_data)
    shown_on = Console(stderr=True)

    def progress(targets):
        return track(targets, "measuring tensors", console=shown_on, disable=not shown_on.is_terminal)

    found = find_sensitivity(run, one_scheme(experiment, names_scheme), progress)
    # These draw with matplotlib, which takes a second to import.
    from qtx.pages.sensitivity_figure import SHOWN_TENSORS, save_sensitivity_plot

    files = save_sweep(found, workdir), save_sensitivity_plot(found, workdir)
    title = f"{run.title}: {found.metric} at {found.scheme} on part of the held-out data; what costs most first"
    print_table(title, HEADER, table_rows(found, SHOWN_TENSORS), console)
    say(console, f"{found.scheme}: {origin_of_ranges(run.assembled, found.scheme)}")
    say(console, f"all {len(found.rows)} tensors: {files[0]}")
    say(console, f"plot: {files[1]}")


def export(
    experiment: Experiment,
    workdir: Path,
    format: str,
    checkpoint: str = NEWEST,
    names_data: bool = False,
    names_scheme: bool = False,
) -> None:
    """Runs `qtx export`."""
    console = Console()
    writer = lookup(FORMATS, "format", format)
    run = open_and_tell(experiment, workdir, console, checkpoint, names_data)
    folder = workdir / "export" / format
    with console.status("exporting"):
        notes = writer(run, folder, one_scheme(experiment, names_scheme))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    for note in (
        *notes,
        f"written: {folder}, {size / 1e6:.2f} MB; parameters in float32: {4 * run.assembled.parameters / 1e6:.2f} MB",
    ):
        say(console, note)


def evaluate_integers(experiment: Experiment, folder: Path, console: Console, names_data: bool) -> None:
    """Runs an exported model on the held-out data and prints its loss and metric."""
    assembled = assemble_exported(experiment, folder, names_data)
    print_summary(assembled, folder, console)
    metric = assembled.objective.metric
    with console.status("measuring"):
        metrics = metrics_of(assembled, load(assembled.module, folder))
    rows = [["loss", number(metrics["loss"])], ["metric", shown(metric, metrics[metric])]]
    rows += beside(metrics, metric)
    print_table(f"{folder}: held-out data, in integers", ["measurement", "value"], rows, console)


def compare(experiment: Experiment, workdir: Path) -> None:
    """Runs `qtx compare`."""
    console = Console()
    assembled = assemble_comparison(experiment, workdir)
    print_summary(assembled, workdir, console, compare=True)
    began = time.monotonic()
    results = run_comparison(experiment, workdir, console, assembled.data)
    finish_comparison(results, workdir, console)
    say(console, f"took {duration(time.monotonic() - began)}")


def report(workdir: Path) -> None:
    """Runs `qtx report`."""
    console = Console()
    finish_comparison(rebuild(workdir), workdir, console)


def finish_comparison(results: list[Result], workdir: Path, console: Console) -> None:
    """Prints a comparison's main table, and where its files `table.md` and `report.html` are."""
    print_table("mean ± standard deviation over seeds, held-out data", *main_table(results), console)
    say(console, f"table: {workdir / 'table.md'}")
    say(console, f"report: {workdir / 'report.html'}")


def open_and_tell(
    experiment: Experiment, workdir: Path, console: Console, checkpoint: str, names_data: bool
) -> TrainedRun:
    """Prepares the run in a folder, prints its summary, and returns it with a checkpoint restored."""
    assembled, own_data = assemble_run(experiment, workdir, names_data)
    print_summary(assembled, workdir, console)
    return restore_run(assembled, workdir, checkpoint, own_data)


def shown(metric: str, value: float) -> str:
    """Formats a metric for people: `perplexity 4.49`, `accuracy 88.1 %`."""
    return f"{metric} {measured(metric, value)}{' %' if metric == 'accuracy' else ''}"


def beside(values: Mapping[str, Any], metric: str) -> list[list[str]]:
    """Returns table rows for what is measured beside the metric: other metrics, and F1 label by label."""
    titles = {name: title for name, title in BESIDE_TITLES.items() if name in values and name != metric}
    titles |= {name: f"F1 of {name.removeprefix(OF_LABEL)}" for name in values if name.startswith(OF_LABEL)}
    return [[title, number(values[name])] for name, title in titles.items()]


def print_table(title: str, header: list[str], rows: list[list[str]], console: Console) -> None:
    """Prints a table whose columns after the first are numbers; as Markdown if the output is a pipe."""
    if not console.is_terminal:
        say(console, f"\n{title}\n\n{markdown(header, rows)}")
        return
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD)
    for index, name in enumerate(header):
        table.add_column(escape(name), justify="right" if index else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
