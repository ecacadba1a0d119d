"""What the commands do: each prints its config's summary, works, and prints its result."""

from __future__ import annotations

import time
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from qtx.compare import check_runs, duration, rebuild, run_comparison, runs
from qtx.experiment import Experiment, record
from qtx.pipeline import check_run, measure, restore_run, save_ranges, train_run
from qtx.pipeline import quantize as quantize_run
from qtx.prepare import Prepared, prepare
from qtx.results import ATTENTION_COLUMNS, OUTLIER_COLUMNS, Result, main_table, markdown, number
from qtx.summary import describe_attention, print_summary, say
from qtx.training import OBJECTIVES, RunFolder, read_metrics


def train(experiment: Experiment, workdir: Path) -> None:
    """`qtx train`."""
    console = Console()
    RunFolder(workdir).claim(record(experiment), write=False)
    prepared = start(experiment, workdir, console)
    train_run(prepared, workdir)
    last = read_metrics(workdir, "eval")[-1]
    metric = OBJECTIVES[experiment.objective].metric
    say(console, f"trained {last['step']} steps: held-out loss {last['loss']:.4f}, {shown(metric, last[metric])}")
    say(console, f"next: qtx quantize --workdir={workdir}")


def evaluate(experiment: Experiment, workdir: Path) -> None:
    """`qtx evaluate`."""
    console = Console()
    check_run(experiment, workdir)
    prepared = start(experiment, workdir, console)
    began = time.monotonic()
    params = restore_run(prepared, workdir)
    with console.status("measuring"):
        result = measure(prepared, params, {}, workdir, describe_attention(experiment.model.attention), began)
    rows = [["loss", number(result["loss"])], ["metric", shown(result["metric"], result["fp"])]]
    rows += [
        [title, number(result[key])] for key, title in (OUTLIER_COLUMNS | ATTENTION_COLUMNS).items() if key != "loss"
    ]
    print_table(f"{workdir}: held-out data, floating point", ["measurement", "value"], rows, console)
    say(console, f"results: {workdir / 'results.json'}")


def quantize(experiment: Experiment, workdir: Path) -> None:
    """`qtx quantize`."""
    console = Console()
    check_run(experiment, workdir)
    prepared = start(experiment, workdir, console)
    began = time.monotonic()
    params = restore_run(prepared, workdir)
    RunFolder(workdir).claim(record(experiment))
    with console.status("quantizing and measuring"):
        schemes = quantize_run(prepared, params)
        result = measure(prepared, params, schemes, workdir, describe_attention(experiment.model.attention), began)
    files = [save_ranges(quantized, scheme, workdir) for scheme, quantized in schemes.items()]
    print_table(f"{workdir}: held-out data, floating point and quantized", *main_table([result]), console)
    say(console, f"results: {workdir / 'results.json'}")
    say(console, f"ranges: {', '.join(map(str, files))}")


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
    prepared = prepare(experiment)
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
