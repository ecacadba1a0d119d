"""The report's figures, each with its title and a sentence or two that say how to read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qtx.analysis.analysis import Analysis
from qtx.analysis.head_map import HeadMap
from qtx.analysis.sensitivity import Sweep
from qtx.foundation.numbers import percent
from qtx.pages import page, plots
from qtx.pages.results import METRIC_TITLES, Result, by_variant, schemes
from qtx.pages.style import SERIES

SITE_TITLES = {"layers/mlp/out": "feed-forward output", "layers/mlp_residual": "layer output"}
TOKENS_NAMED = 5


@dataclasses.dataclass(frozen=True)
class ReportedRun:
    """The records of one run that the report reads.

    Attributes:
      result: the run's line of results.jsonl.
      config: the run's resolved config; empty if the run's folder has none.
      history: the lines of the run's metrics.jsonl.
      analysis: the analysis of the trained model, or None.
      sweep: the sensitivities of the trained model, or None.
    """

    result: Result
    config: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    analysis: Analysis | None
    sweep: Sweep | None = None


# Key in metrics.jsonl of a measurement over training to its split, and to its figure's label, title and caption.
CURVES = {
    "loss": (
        "eval",
        "held-out loss (nats)",
        "Learning",
        "Loss on data that was not trained on, lower is better: variants whose lines end together have learned equally "
        "well. The band spans the seeds.",
    ),
    "max_inf_norm": (
        "monitor",
        "max infinity norm",
        "Outliers grow",
        "The largest activation as training goes on: a line that climbs away from the control's has outliers that "
        "attention causes.",
    ),
    "avg_kurtosis": (
        "monitor",
        "average kurtosis",
        "Tails grow",
        "Kurtosis says how much of a tensor's spread sits in a few extreme values: 3 is a bell curve, hundreds mean a "
        "few giants.",
    ),
    "sink_mass": (
        "monitor",
        "sink mass",
        "Sinks form",
        "The share of its attention that a head gives to one favourite token, averaged over heads: the higher, the "
        "more heads park their attention there and do nothing.",
    ),
}


def curve_figures(runs: Sequence[ReportedRun], keys: Sequence[str]) -> list[str]:
    """Draws one figure for each of these keys of `CURVES` that any run has."""
    items = []
    for key in keys:
        split, label, title, caption = CURVES[key]
        variants: dict[str, list[plots.Points]] = {}
        for run in runs:
            lines = [line for line in run.history if line["split"] == split and line.get(key) is not None]
            if lines:
                variants.setdefault(run.result["variant"], []).append([(line["step"], line[key]) for line in lines])
        if variants:
            items.append(page.figure(plots.over_training(variants, label), f"{split}-{key}", title, caption))
    return items


def ladder_figure(lines: Sequence[Result]) -> str:
    """Draws the metric in floating point and at every scheme."""
    metric = METRIC_TITLES[lines[0]["metric"]]
    scale = 100.0 if lines[0]["metric"] == "accuracy" else 1.0
    ladder: dict[str, dict[str, list[float]]] = {}
    for variant, group in by_variant(lines).items():
        ladder[variant] = {"FP": [scale * line["fp"] for line in group]}
        for scheme in schemes(lines):
            values = [scale * line["quantized"][scheme] for line in group if scheme in line["quantized"]]
            ladder[variant][scheme.upper()] = values
    return page.figure(
        plots.bit_ladder(ladder, metric),
        "ladder",
        "What quantization costs",
        f"{metric.capitalize()} in floating point (FP) and with fewer bits: the flatter a line, the less the variant "
        "loses. Bars are one standard deviation over seeds.",
    )


def outlier_figures(analysed: Mapping[str, Sequence[Analysis]]) -> list[str]:
    """Draws where the outliers are: layers, hidden dimensions, positions, tokens."""
    site = next(iter(analysed.values()))[0].site
    tensor = SITE_TITLES.get(site, site)

    def total(counts: Callable[[Analysis], np.ndarray]) -> dict[str, np.ndarray]:
        return {variant: np.sum([counts(a).sum(axis=0) for a in group], axis=0) for variant, group in analysed.items()}

    norms = {variant: [a.inf_norms[site] for a in group] for variant, group in analysed.items()}
    layers = page.figure(
        plots.over_layers(norms, "infinity norm"),
        "layers",
        "Layer by layer",
        f"The largest value of each layer's {tensor}, averaged over examples: where along the depth outliers arise.",
    )
    if not any(a.metrics["outliers"] for group in analysed.values() for a in group):
        nothing = f"No value of any {tensor} lies more than 6 standard deviations from its mean: there are no outliers."
        return [layers, page.card(page.paragraph(nothing))]
    items = [
        layers,
        page.figure(
            plots.outlier_strips(total(lambda a: a.outliers_by_dimension), "hidden dimension"),
            "dimensions",
            "Which hidden dimensions",
            f"Values of the {tensor} more than 6 standard deviations from its mean, counted by dimension (all layers, "
            "examples and seeds): a few tall spikes mean that a few dimensions carry all outliers.",
        ),
        page.figure(
            plots.outlier_strips(total(lambda a: a.outliers_by_position), "token position"),
            "positions",
            "Which positions",
            "The same outliers by the token's position: a spike at the start means that the first token is special.",
        ),
    ]
    tokens = [[variant, _named(group[0].outlier_tokens)] for variant, group in analysed.items()]
    if any(text for _, text in tokens):
        caption = "Which tokens: those with the most outliers, and how many (first seed)."
        items.append(page.card(page.table(("attention", "tokens"), tokens, caption)))
    return items


def histogram_figures(analysed: Mapping[str, Sequence[Analysis]], scheme: str) -> list[str]:
    """Draws the values of the tensor with the outliers, in floating point and under a scheme."""
    site = next(iter(analysed.values()))[0].site
    tensor = SITE_TITLES.get(site, site)

    def counts(view: str) -> dict[str, plots.Counts]:
        table: dict[str, plots.Counts] = {}
        for variant, (a, *_) in analysed.items():
            name, layer = f"{site} {view}", int(a.inf_norms[site].argmax())
            before = a.histograms[name][layer]
            after = a.quantized_histograms[name][layer] if a.quantized_histograms else None
            low, high = a.histogram_range[name][layer]
            table[variant] = (np.linspace(low, high, len(before) + 1), before, after)
        return table

    return [
        page.figure(
            plots.value_range(counts("full"), f"value of the {tensor}"),
            "full",
            "The whole range",
            "All values of the layer with the largest outliers (first seed), in floating point (filled) and at "
            f"{scheme} (line). A quantized tensor's grid has to span all of it.",
        ),
        page.figure(
            plots.grid_steps(counts("bulk"), f"value of the {tensor}"),
            "bulk",
            "The bulk, close up",
            f"The same tensor without its tails. Each needle is one step of the {scheme} grid: the further out the "
            "outliers, the fewer steps are left for the bulk, where nearly all values are.",
        ),
    ]


def sink_figure(analysed: Mapping[str, Sequence[Analysis]]) -> str:
    """Draws every head: how much it attends to its favourite token, and how empty that token's value is."""
    return page.figure(
        plots.sinks({variant: [a.heads for a in group] for variant, group in analysed.items()}),
        "sinks",
        "Heads that do nothing",
        "One mark per head and seed. Right: nearly all of its attention goes to one token. Low: that token's value is "
        "almost empty, so that attending to it adds nothing. A head at the lower right does nothing by way of a sink.",
    )


# Key of `Analysis.maps` to the heading of the figures, and a sentence that says which head they show.
MAPS = {
    "sink": ("The strongest sinks", "Of all heads, the one that gives most of its attention to one token."),
    "outlier": ("The loudest heads", "The head of largest output in the layer of largest feed-forward output."),
}


def map_figures(analysed: Mapping[str, Sequence[Analysis]], kind: str) -> list[str]:
    """Draws the attention of one head per variant on one example, unless the figures of "sink" show it already."""
    items = []
    for index, (variant, (a, *_)) in enumerate(analysed.items()):
        head, sink = a.maps[kind], a.maps["sink"]
        shown_already = kind != "sink" and (head.layer, head.head) == (sink.layer, sink.head)
        if shown_already or not head.probs.any():  # all zero: attention is off
            continue
        drawn = plots.attention_map(
            head, f"{variant}: layer {head.layer + 1}, head {head.head + 1}", SERIES[index % len(SERIES)]
        )
        items.append(page.figure(drawn, f"map-{kind}-{index}", variant, f"{MAPS[kind][1]} {map_caption(head)}"))
    return items


def map_caption(head: HeadMap, where: str = "") -> str:
    """Returns the caption of a head's map; `where` says what it is a map of, as in ", on one example"."""
    gate = "" if head.openness is None else f" Its gate is open by {percent(head.openness.mean())} on average."
    return (
        f"A row shows where one token's attention goes{where}: a bright column is a sink. Below, the length of each "
        f"token's value; at the right, of what the head adds to each token.{gate}"
    )


def _named(tokens: Mapping[str, int]) -> str:
    top = list(tokens.items())[:TOKENS_NAMED]
    return ", ".join(f"{plots.token_label(token)} ({count:,})" for token, count in top)
