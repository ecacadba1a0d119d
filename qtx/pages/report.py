"""The report of a comparison is one HTML page: what was run, what came out, and figures that say how to read them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from flax import traverse_util

from qtx import __version__
from qtx.analysis.analysis import load_analysis
from qtx.analysis.sensitivity import load_sweep
from qtx.families import FAMILIES
from qtx.foundation.errors import lookup
from qtx.foundation.numbers import number
from qtx.foundation.storage import Expected, inside
from qtx.pages import figures, page
from qtx.pages.figures import ReportedRun
from qtx.pages.paper import TABLE_2, TABLE_2_HEADER
from qtx.pages.results import (
    METRIC_TITLES,
    Result,
    attention_table,
    by_variant,
    lower_is_better,
    main_table,
    measured,
    options_in_words,
    read_lines,
    schemes,
    short_names,
)
from qtx.pages.sensitivity_figure import sensitivity_section
from qtx.training import RunFolder, read_metrics

EXPECTED = Expected("the folder of a comparison's runs", "mend the variants in results.jsonl")
SMALL_MODEL = 20_000_000  # parameters: below the smallest model of the paper


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a comparison's folder, from its results and whatever its runs' folders hold.

    Returns:
      The page's path.

    Raises:
      QtxError: if a run's files are of another version of qtx.
    """
    path = folder / "report.html"
    path.write_text(report(read_runs(folder, read_lines(folder / "results.jsonl"))), encoding="utf-8")
    return path


def read_runs(folder: Path, lines: Iterable[Result]) -> list[ReportedRun]:
    """Reads the runs behind the lines of a comparison's results; a part that a run lacks is left out."""
    runs = []
    for line in lines:
        run = RunFolder(inside(folder / "runs", f"{line['variant']}-seed{line['seed']}", EXPECTED))
        analysis = run.root / "analysis.npz"
        runs.append(
            ReportedRun(
                result=line,
                config=run.read_config() if run.config.is_file() else {},
                history=read_metrics(run.root) if run.metrics.is_file() else [],
                analysis=load_analysis(analysis) if analysis.is_file() else None,
                sweep=load_sweep(run.root),
            )
        )
    return runs


def report(runs: Sequence[ReportedRun]) -> str:
    """Returns the page of a comparison as HTML, without any reference to the outside."""
    names = short_names(run.result["variant"] for run in runs)
    options = options_in_words(names)
    runs = [dataclasses.replace(run, result={**run.result, "variant": names[run.result["variant"]]}) for run in runs]
    lines = [run.result for run in runs]
    if not lines:
        return page.page("Attention variants compared", [page.paragraph("No run is finished yet.", "lead")])
    config = next((run.config for run in runs if run.config), {})
    title = f"Attention variants compared: {str(config.get('name', 'results')).partition(':')[0]}"
    body = [
        page.heading(title, level=1),
        page.paragraph(f"{_what_was_run(lines, config)} {options}".strip(), "lead"),
        page.bullets(_in_short(lines)),
        page.heading("Results"),
        page.table(*main_table(lines), caption=_table_caption(lines)),
        page.table(*attention_table(lines), caption="Size, and what attention does on held-out data."),
        *_papers_numbers(config),
        page.heading("Quantization and training"),
        page.figures(
            [
                figures.ladder_figure(lines),
                *figures.curve_figures(runs, ("loss", "max_inf_norm", "avg_kurtosis")),
            ]
        ),
        *sensitivity_section({run.result["variant"]: run.sweep for run in reversed(runs) if run.sweep is not None}),
        *_inside(runs),
        page.heading("What this can and cannot show"),
        page.paragraph(_limits(lines), "note"),
    ]
    if config:
        flat = traverse_util.flatten_dict(config, sep=".")
        values = [(name, json.dumps(value, ensure_ascii=False)) for name, value in flat.items()]
        body += [page.heading("Configuration"), page.definitions("Every option of the first run", values)]
    body.append(page.footer(f"Written by qtx {__version__} from results.jsonl and the runs' folders beside this page."))
    return page.page(title, body)


def _inside(runs: Sequence[ReportedRun]) -> list[str]:
    """Returns the sections drawn from the analyses of the trained models; empty if there are none."""
    analysed: dict[str, list] = {}
    for run in runs:
        if run.analysis is not None:
            analysed.setdefault(run.result["variant"], []).append(run.analysis)
    if not analysed:
        return []
    scheme = next(iter(schemes([run.result for run in runs])), "fewer bits").upper()
    sinks = [*figures.curve_figures(runs, ("sink_mass",)), figures.sink_figure(analysed)]
    maps = []
    for kind, (title, _) in figures.MAPS.items():
        if drawn := figures.map_figures(analysed, kind):
            maps += [page.heading(title, level=3), page.figures(drawn)]
    return [
        page.heading("Where the outliers are"),
        page.figures(figures.outlier_figures(analysed)),
        page.heading("Before and after quantization"),
        page.figures(figures.histogram_figures(analysed, scheme)),
        page.heading("What the heads do"),
        page.paragraph(
            "A head with nothing to say still has to spend its attention somewhere. With softmax it parks it on a "
            "token whose value it has emptied, a sink; the scores that this takes are what drives the outliers. A gate "
            "can close instead, and clipped softmax can give exactly nothing."
        ),
        page.figures(sinks),
        *maps,
    ]


def _what_was_run(lines: Sequence[Result], config: Mapping[str, Any]) -> str:
    variants, seeds = len(by_variant(lines)), len({line["seed"] for line in lines})
    text = f"{variants} attention variant{'s' * (variants > 1)}, {seeds} seed{'s' * (seeds > 1)} each"
    if not config:
        return f"{text}, trained alike, measured in floating point and quantized."
    model, training = config["model"], config["training"]
    family = lookup(FAMILIES, "model family", config["family"])
    parameters = min(line["parameters"] for line in lines)
    return (
        f"{text}, of one {family.title}: {model['num_layers']} layers, width {model['width']}, "
        f"{model['num_heads']} heads, {parameters:,} parameters. Each was trained for {training['steps']:,} "
        f"steps of {training['batch_size']} examples from the source “{config['data']['source']}”, measured in "
        "floating point, then quantized without further training and measured again."
    )


def _in_short(lines: Sequence[Result]) -> list[str]:
    """Returns a few sentences computed from the results."""
    groups, metric = by_variant(lines), lines[0]["metric"]

    def means(key: str, scheme: str = "") -> dict[str, float]:
        """Returns the mean over seeds of a result, or of its entry for a scheme, by variant."""
        return {
            variant: fmean(line[key][scheme] if scheme else line[key] for line in group)
            for variant, group in groups.items()
        }

    def listed(values: Mapping[str, str]) -> str:
        return ", ".join(f"{value} with {variant}" for variant, value in values.items())

    full, items = means("fp"), []
    common = [scheme for scheme in schemes(lines) if all(scheme in line["quantized"] for line in lines)]
    at = {scheme: means("quantized", scheme) for scheme in common}
    if at:
        worse = 1 if lower_is_better(metric) else -1
        hardest = max(at, key=lambda scheme: worse * fmean(at[scheme].values()))
        changes = {v: f"{measured(metric, full[v])} → {measured(metric, at[hardest][v])}" for v in full}
        items.append(f"From floating point to {hardest.upper()}, the hardest scheme, {metric} goes {listed(changes)}.")
    norms = means("max_inf_norm")
    items.append(f"Largest activation (max infinity norm): {listed({v: number(x) for v, x in norms.items()})}.")
    if "none" in groups:
        items.append(
            "“none” is the control, a model whose attention is switched off: the outliers that it has too do not come "
            "from attention."
        )
    return items


def _table_caption(lines: Sequence[Result]) -> str:
    seeds = len({line["seed"] for line in lines})
    better = "lower" if lower_is_better(lines[0]["metric"]) else "higher"
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed, so no deviation is known"
    return (
        f"Held-out data, {spread}; {METRIC_TITLES[lines[0]['metric']]}: {better} is better. FP is floating point; W8A6 "
        "would be 8-bit weights and 6-bit activations."
    )


def _papers_numbers(config: Mapping[str, Any]) -> list[str]:
    if config.get("family") not in TABLE_2:
        return []
    model, rows = TABLE_2[config["family"]]
    caption = f"For comparison, the paper's own Table 2 at full scale (Bondarenko et al. 2023): {model}."
    return [page.table(TABLE_2_HEADER, rows, caption)]


def _limits(lines: Sequence[Result]) -> str:
    text = "Differences smaller than the standard deviation over seeds are noise; one seed shows no deviation at all. "
    if any(line["variant"] == "none" for line in lines):
        text += "Outliers that the control has as well come from the optimizer or the data, not from attention. "
    if max(line["parameters"] for line in lines) < SMALL_MODEL:
        text += (
            "The paper's models have 22 million to 1.3 billion parameters and train for days; only there do outliers "
            "grow until 8 bits cannot hold them. A model of this size shows the mechanism on its way (sinks, emptied "
            "values, activations that grow) and which variant keeps more at few bits; that W8A8 costs it little says "
            "nothing about large models."
        )
    return text
