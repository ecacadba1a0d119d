"""Table 2 of the paper, beside the same columns measured on this machine.

    python -m experiments.table2 --workdir=runs/demo

runs the comparison of `configs/demo.py` (or `--config=FILE`, with `--config.KEY=VALUE` overrides, as for `qtx
compare`), or reads it where it is finished, and prints the paper's Table 2 and Table 10 with the matched baselines,
then ours.

A model that a laptop trains in minutes is far from the paper's, and nothing promises that it collapses at W8A8 too.
What can be compared are its outliers, its attention sinks, and the order of the variants at fewer activation bits.
The `none` row, in which attention is off, says which outliers do not come from attention."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qtx.cli.main import main as qtx_main
from qtx.pages.paper import TABLE_2, TABLE_2_HEADER
from qtx.pages.results import Result, main_table, read_lines

TABLE_10_HEADER = ("bits", "softmax", "clipped softmax", "gated")
TABLE_10 = (
    ("W6A8, min-max", "598", "4.64", "4.79"),
    ("W6A8, MSE", "6.49", "4.56", "4.71"),
    ("W4A8, MSE", "6.52", "4.90", "5.02"),
    ("W6A6, MSE", "42.8", "6.64", "5.90"),
)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A printable table; the columns after the first two are numbers."""
    result = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(header):
        result.add_column(name, justify="right" if index > 1 else "left", overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result


def show(results: Sequence[Result], name: str, console: Console) -> None:
    """Prints the paper's tables and, below, ours."""
    papers = [[model, *row] for model, rows in TABLE_2.values() for row in rows]
    console.print(table("The paper's Table 2", ("model", *TABLE_2_HEADER), papers))
    console.print(table("The paper's Table 10: BERT-base, perplexity", TABLE_10_HEADER, TABLE_10))
    ours, rows = main_table(results)
    seeds = len({result["seed"] for result in results})
    console.print(
        table(f"Measured here: {name}, mean ± std over {seeds} seeds", ["model", *ours], [[name, *r] for r in rows])
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs or reuses the comparison; the exit code is that of `qtx compare`."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not any(argument.partition("=")[0] == "--config" for argument in arguments):
        arguments.insert(0, "--config=configs/demo.py")
    code = qtx_main(["compare", *arguments])
    if code or "--help" in arguments:
        return code
    from qtx.cli.flags import parse

    config, workdir = parse(arguments)
    assert config is not None and isinstance(workdir, Path)
    show(read_lines(workdir / "results.jsonl"), config.name, Console(width=None if sys.stdout.isatty() else 160))
    return 0


if __name__ == "__main__":
    sys.exit(main())
