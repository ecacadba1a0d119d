"""What the commands do: each prints its config's summary, works, and prints its result."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from qtx.analysis.sensitivity import HEADER, save_sweep, table_rows
from qtx.compare import check_runs, duration, rebuild, run_comparison, runs
from qtx.data import prepare as prepare_data
from qtx.data.prepared.summary import describe
from qtx.distributed import initialize, is_main
from qtx.errors import QtxError, lookup
from qtx.experiment import Experiment, record
from qtx.hardware import CHIPS
from qtx.interop import save as save_huggingface
from qtx.pipeline import (
    check_run,
    find_sensitivity,
    first_scheme,
    floating_point,
    measure,
    method_of,
    metrics_of,
    restore_run,
    train_run,
    with_ranges,
)
from qtx.pipeline import quantize as quantize_run
from qtx.planning import devices_of, make_plan, virtual_devices
from qtx.planning import table as plan_table
from qtx.prepare import Prepared
from qtx.prepare import prepare as prepare_experiment
from qtx.quantization.files import save_ranges
from qtx.quantization.integer import convert, load, save
from qtx.quantization.integer.files import DESCRIPTION
from qtx.results import ATTENTION_COLUMNS, OUTLIER_COLUMNS, Result, main_table, markdown, number
from qtx.summary import describe_attention, print_summary, say
from qtx.training import NEWEST, OBJECTIVES, RunFolder, read_metrics


def plan(experiment: Experiment, devices: str | None = None, chip: str | None = None) -> None:
    """`qtx plan`; `devices` is how many, `chip` the name of one in `qtx.hardware.CHIPS`."""
    console = Console()
    if chip is not None:
        lookup(CHIPS, "chip", chip)
    if devices is not None and not (devices.isdecimal() and int(devices)):
        raise QtxError(f"--devices={devices}: expected a positive integer")
    found = make_plan(experiment, virtual_devices(int(devices) if devices else devices_of(experiment)))
    for line in plan_table.describe(found):
        say(console, line)
    print_table("one device holds", ["", "GiB"], plan_table.memory_rows(found), console)
    print_table("matrix products of one step", ["", "FLOPs"], plan_table.work_rows(found), console)
    if found.work.collectives:
        header = ["one device exchanges", "per step", "GiB"]
        print_table("collectives of one step", header, plan_table.collective_rows(found), console)
    say(console, "")
    for line in (*plan_table.NOTES, *(plan_table.verdict(found, chip) if chip else [plan_table.fitting_chips(found)])):
        say(console, line)


def prepare(experiment: Experiment) -> None:
    """`qtx prepare`."""
    console = Console()
    for written in prepare_data(experiment.data, experiment.objective):
        for line in describe(written):
            say(console, line)


def train(experiment: Experiment, workdir: Path, distributed: bool = False, profile: bool = False) -> None:
    """`qtx train`; `distributed` makes it one of many processes, of which one prints; `profile` traces a few steps."""
    if distributed:
        initialize()
    console = Console(quiet=not is_main())
    RunFolder(workdir).claim(record(experiment), write=False)
    prepared = start(experiment, workdir, console)
    train_run(prepared, workdir, profile)
    last = read_metrics(workdir, "eval")[-1]
    metric = OBJECTIVES[experiment.objective].metric
    say(console, f"trained {last['step']} steps: held-out loss {last['loss']:.4f}, {shown(metric, last[metric])}")
    say(console, f"next: qtx {'evaluate' if experiment.qat.start else 'quantize'} --workdir={workdir}")


def evaluate(experiment: Experiment, workdir: Path, checkpoint: str = NEWEST) -> None:
    """`qtx evaluate`; the folder of an exported model is run in integers."""
    console = Console()
    if (workdir / DESCRIPTION).is_file():
        evaluate_integers(experiment, workdir, console)
        return
    check_run(experiment, workdir)
    prepared = start(experiment, workdir, console)
    began = time.monotonic()
    params = restore_run(prepared, workdir, checkpoint)
    with console.status("measuring"):
        result = measure(prepared, params, {}, workdir, describe_attention(experiment.model.attention), began)
    rows = [["loss", number(result["loss"])], ["metric", shown(result["metric"], result["fp"])]]
    rows += [[f"trained for {name.upper()}", shown(result["metric"], q)] for name, q in result["quantized"].items()]
    rows += [
        [title, number(result[key])] for key, title in (OUTLIER_COLUMNS | ATTENTION_COLUMNS).items() if key != "loss"
    ]
    print_table(f"{workdir}: held-out data, floating point", ["measurement", "value"], rows, console)
    say(console, f"results: {workdir / 'results.json'}")


def quantize(experiment: Experiment, workdir: Path, ranges: str | None = None, checkpoint: str = NEWEST) -> None:
    """`qtx quantize`; `ranges` is a file to take the ranges of one scheme from."""
    console = Console()
    check_run(experiment, workdir)
    prepared = start(experiment, workdir, console)
    began = time.monotonic()
    params = restore_run(prepared, workdir, checkpoint)
    with console.status("quantizing and measuring"):
        schemes = with_ranges(prepared, params, Path(ranges)) if ranges else quantize_run(prepared, params)
        RunFolder(workdir).claim(record(experiment))
        result = measure(prepared, params, schemes, workdir, describe_attention(experiment.model.attention), began)
    files = {scheme: workdir / "ranges" / f"{scheme}.safetensors" for scheme in schemes}
    for scheme, file in files.items():
        save_ranges(schemes[scheme], floating_point(prepared, params), file, method_of(prepared, scheme), scheme)
    print_table(f"{workdir}: held-out data, floating point and quantized", *main_table([result]), console)
    say(console, f"results: {workdir / 'results.json'}")
    say(console, f"ranges: {', '.join(map(str, files.values()))}")


def sensitivity(experiment: Experiment, workdir: Path, checkpoint: str = NEWEST) -> None:
    """`qtx sensitivity`."""
    console = Console()
    check_run(experiment, workdir)
    prepared = start(experiment, workdir, console)
    params = restore_run(prepared, workdir, checkpoint)
    shown_on = Console(stderr=True)

    def progress(targets):
        return track(targets, "measuring tensors", console=shown_on, disable=not shown_on.is_terminal)

    found = find_sensitivity(prepared, params, progress)
    # Draws with matplotlib, which takes a second to import.
    from qtx.analysis.sensitivity_figure import SHOWN_TENSORS, save_sensitivity_plot

    files = save_sweep(found, workdir), save_sensitivity_plot(found, workdir)
    title = f"{workdir}: {found.metric} at {found.scheme} on part of the held-out data; what costs most first"
    print_table(title, HEADER, table_rows(found, SHOWN_TENSORS), console)
    say(console, f"all {len(found.rows)} tensors: {files[0]}")
    say(console, f"plot: {files[1]}")


def export(experiment: Experiment, workdir: Path, format: str, checkpoint: str = NEWEST) -> None:
    """`qtx export`."""
    console = Console()
    writer = lookup(FORMATS, "format", format)
    check_run(experiment, workdir)
    prepared = start(experiment, workdir, console)
    params = restore_run(prepared, workdir, checkpoint)
    folder = workdir / "export" / format
    with console.status("exporting"):
        notes = writer(prepared, params, folder)
    size = sum(file.stat().st_size for file in folder.iterdir())
    for note in (
        *notes,
        f"written: {folder}, {size / 1e6:.2f} MB; parameters in float32: {4 * prepared.parameters / 1e6:.2f} MB",
    ):
        say(console, note)


def export_int8(prepared: Prepared, params: Any, folder: Path) -> list[str]:
    """Writes an integer model and the config that evaluates it; returns what to tell of it."""
    model = convert(first_scheme(prepared, params))
    save(model, folder)
    RunFolder(folder).claim(record(prepared.experiment))
    floating = ", ".join(model.in_floating_point) or "nothing"
    return [f"matrix products in floating point: {floating}", f"next: qtx evaluate --workdir={folder}"]


def export_huggingface(prepared: Prepared, params: Any, folder: Path) -> list[str]:
    """Writes a Hugging Face checkpoint, in floating point; returns what to tell of it."""
    save_huggingface(folder, prepared.module.config, floating_point(prepared, params))
    return []


FORMATS = {"int8": export_int8, "huggingface": export_huggingface}


def evaluate_integers(experiment: Experiment, folder: Path, console: Console) -> None:
    """Runs an exported model on the held-out data and prints its loss and metric."""
    experiment = dataclasses.replace(experiment, qat=dataclasses.replace(experiment.qat, start=""))
    prepared = start(experiment, folder, console)
    metric = OBJECTIVES[experiment.objective].metric
    with console.status("measuring"):
        metrics = metrics_of(prepared, load(prepared.module, folder))
    rows = [["loss", number(metrics["loss"])], ["metric", shown(metric, metrics[metric])]]
    print_table(f"{folder}: held-out data, in integers", ["measurement", "value"], rows, console)


def compare(experiment: Experiment, workdir: Path) -> None:
    """`qtx compare`."""
    console = Console()
    check_runs(runs(experiment, workdir))
    prepared = start(experiment, workdir, console, compare=True)
    began = time.monotonic()
    results = run_comparison(experiment, workdir, console, prepared.data)
    finish_comparison(results, workdir, console)
    say(console, f"took {duration(time.monotonic() - began)}")


def report(workdir: Path) -> None:
    """`qtx report`."""
    console = Console()
    finish_comparison(rebuild(workdir), workdir, console)


def finish_comparison(results: list[Result], workdir: Path, console: Console) -> None:
    """Prints a comparison's table and where the rest is."""
    print_table("mean ± standard deviation over seeds, held-out data", *main_table(results), console)
    say(console, f"table: {workdir / 'table.md'}")
    say(console, f"report: {workdir / 'report.html'}")


def start(experiment: Experiment, workdir: Path, console: Console, compare: bool = False) -> Prepared:
    """Prepares an experiment and prints its summary."""
    prepared = prepare_experiment(experiment)
    print_summary(prepared, workdir, console, compare)
    return prepared


def shown(metric: str, value: float) -> str:
    """A metric as people read it: `perplexity 4.49`, `accuracy 88.1 %`."""
    return f"{metric} {number(100 * value)} %" if metric == "accuracy" else f"{metric} {number(value)}"


def print_table(title: str, header: list[str], rows: list[list[str]], console: Console) -> None:
    """A table whose columns after the first are numbers; Markdown in a pipe."""
    if not console.is_terminal:
        say(console, f"\n{title}\n\n{markdown(header, rows)}")
        return
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
