"""The results of a comparison: one JSON line per run, and their mean and standard deviation as tables.

A result is a flat dict: variant, seed, parameters, metric (a name in `METRIC_TITLES`), fp (its value in floating
point), loss, max_inf_norm, avg_kurtosis, outliers, sink_mass, zero_share, dead_row_share, quantized ({scheme: value of
the metric}) and seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qtx.data import OBJECTIVES
from qtx.foundation.numbers import fixed, mean_and_deviation, number
from qtx.foundation.storage import Expected, parse_json, read_bytes, seal, unseal, write_whole

Result = dict[str, Any]
EXEMPT = "exempt"
"""The key of the number of tensors that other bits than a scheme's were given."""
EXPECTED = Expected("the results of a comparison of this version of qtx", "run the same qtx compare again")
LINES = "lines"
"""The key of the number of lines in a file of results."""

# Result key to column title: the paper's Table 2, then what attention does.
OUTLIER_COLUMNS = {"max_inf_norm": "max inf. norm", "avg_kurtosis": "avg. kurtosis"}
ATTENTION_COLUMNS = {
    "parameters": "parameters",
    "loss": "loss",
    "outliers": "6σ outliers",
    "sink_mass": "sink mass",
    "zero_share": "exact zeros",
    "dead_row_share": "dead rows",
}
METRIC_TITLES = {
    "perplexity": "perplexity",
    "accuracy": "accuracy, %",
    "f1": "F1",
    "correlation": "correlation",
    "fidelity": "fidelity",
}
# Titles of what some objectives measure beside their metric.
BESIDE_TITLES = {
    **{"f1": "F1", "precision": "precision", "recall": "recall", "exact_match": "exact match"},
    **{"rank_correlation": "rank correlation", "centred_fidelity": "fidelity, centred"},
    **{"word_perplexity": "perplexity of words", "bits_per_byte": "bits per byte"},
    "accuracy_norm": "accuracy by likelihood per character",
}


def lower_is_better(metric: str) -> bool:
    """Says whether a lower value of a registered objective's metric is better."""
    return any(objective.lower_is_better for objective in OBJECTIVES.values() if objective.metric == metric)


def write_lines(results: Iterable[Result], path: Path) -> None:
    """Writes results as JSON lines, each with its checksum and the number of lines; all or none."""
    lines = list(results)
    write_whole({path: "".join(json.dumps(seal({**line, LINES: len(lines)})) + "\n" for line in lines).encode()})


def read_lines(path: Path) -> list[Result]:
    """Reads what `write_lines` wrote.

    Raises:
      QtxError: if a line is missing, or is not as it was written.
    """
    results = []
    for place, line in enumerate(read_bytes(path, EXPECTED).splitlines(), start=1):
        where = f"line {place} of {path}"
        results.append(unseal(parse_json(line, where, EXPECTED, finite=False), where, EXPECTED))
    if not results or {result.pop(LINES, None) for result in results} != {len(results)}:
        raise EXPECTED.refusal(path, "lines are missing")
    return results


def measured(metric: str, *values: float) -> str:
    """Formats a metric of a run, or its mean and deviation over seeds: accuracy in percent; fidelity to four decimal
    places, for what is lost is small."""
    if metric == "accuracy":
        return mean_and_deviation([100 * value for value in values], lambda value: number(value, whole=100.0))
    return mean_and_deviation(values, fixed if metric == "fidelity" else number)


def schemes(results: Sequence[Result]) -> list[str]:
    """Lists the schemes that any result has, in the order of their first appearance."""
    return list(dict.fromkeys(scheme for result in results for scheme in result["quantized"]))


def main_table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows, one per variant: the metric in floating point, outliers, the metric at each scheme."""
    columns = schemes(results)
    metric = results[0]["metric"] if results else "perplexity"
    exempt = max((run.get(EXEMPT, 0) for run in results), default=0)
    beside = f", {exempt} tensors exempt" if exempt else ""
    of_schemes = [f"{c.upper()}{beside}" for c in columns]
    header = ["attention", f"FP {METRIC_TITLES[metric]}", *OUTLIER_COLUMNS.values(), *of_schemes]
    rows, names = [], short_names(run["variant"] for run in results)
    for variant, runs in by_variant(results).items():
        cells = [measured(metric, *(run["fp"] for run in runs))]
        cells += [mean_and_deviation([run[key] for run in runs]) for key in OUTLIER_COLUMNS]
        for scheme in columns:
            values = [run["quantized"][scheme] for run in runs if scheme in run["quantized"]]
            cells.append(measured(metric, *values) if values else "")
        rows.append([names[variant], *cells])
    return header, rows


def attention_table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows, one per variant: size, loss, outlier counts, and how much the heads do nothing."""
    header = ["attention", "seeds", *ATTENTION_COLUMNS.values()]
    names = short_names(run["variant"] for run in results)
    rows = [
        [names[variant], str(len(runs)), *(mean_and_deviation([run[key] for run in runs]) for key in ATTENTION_COLUMNS)]
        for variant, runs in by_variant(results).items()
    ]
    return header, rows


def by_variant(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Groups runs by variant, in the order of first appearance."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result["variant"], []).append(result)
    return groups


def short_names(variants: Iterable[str]) -> dict[str, str]:
    """Shortens each variant's name for tables and figures: drops the options where the rest is still unique.

    `{"clipped_softmax,alpha=2": "clipped_softmax"}`; two variants of one kind keep their options,
    and so does the only variant.
    """
    variants = list(dict.fromkeys(variants))
    if len(variants) == 1:
        return {variants[0]: variants[0]}
    kinds = [re.sub(r"(,\w+=[^,]*)+$", "", variant) for variant in variants]
    return {variant: kind if kinds.count(kind) == 1 else variant for variant, kind in zip(variants, kinds, strict=True)}


def options_in_words(variants: Iterable[str]) -> str:
    """Says what `short_names` leaves out: `clipped_softmax has alpha=2, gamma_warmup_steps=300.`, or nothing."""
    left_out = [
        f"{short} has {', '.join(variant.split(',')[1:])}"
        for variant, short in short_names(variants).items()
        if variant != short
    ]
    return f"{'; '.join(left_out)}." if left_out else ""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a Markdown table; numbers are aligned right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
