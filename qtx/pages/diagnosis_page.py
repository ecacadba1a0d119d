"""This module makes the page of one model's diagnosis: sentences on what is wrong, where, what it costs and what would
help, then the figures and tables behind each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qtx import __version__
from qtx.analysis.diagnosis import IDLE, OUTLIER_RATIO, Diagnosis
from qtx.pages import diagnosis_plots, page, plots
from qtx.pages.diagnosis import (
    head_table,
    idle_heads,
    ladder_table,
    method_table,
    outlier_table,
    sentences,
    sources,
    writer_table,
)
from qtx.pages.figures import map_caption
from qtx.pages.results import METRIC_TITLES
from qtx.pages.sensitivity_figure import sensitivity_section

FILE = "report.html"
SHOWN_TENSORS = 3
TABLE_ROWS = 12

# Site to a name for newcomers, in the order of the computation.
GROWTH = {
    "layers/attention/out": "attention output",
    "layers/attention_residual": "sum after attention",
    "layers/mlp/out": "feed-forward output",
    "layers/mlp_residual": "sum after feed-forward",
}
METRICS = {
    "fidelity": "Fidelity is the cosine between the outputs of the quantized and of the original model: of embeddings "
    "as a mean over the texts, of a head's outputs over all of them together, without their means. 1 is the same.",
    "correlation": "Correlation with the labels: higher is better.",
    "f1": "F1: higher is better.",
    "perplexity": "Perplexity: lower is better.",
    "accuracy": "Accuracy: higher is better.",
}


def write_page(diagnosis: Diagnosis, workdir: Path) -> Path:
    """Writes `report.html` into a run's folder and returns its path."""
    path = workdir / FILE
    path.write_text(diagnosis_page(diagnosis, "; the numbers are in diagnosis.json beside this page"), encoding="utf-8")
    return path


def diagnosis_page(diagnosis: Diagnosis, beside: str = "") -> str:
    """Returns the page as HTML, without any reference to the outside; `beside` ends its last line."""
    said = sentences(diagnosis)
    title = f"Diagnosis of {diagnosis.name}"
    body = [
        page.heading(title, level=1),
        page.paragraph(f"{diagnosis.model}.", "lead"),
        page.bullets(list(said.values())),
        page.paragraph(
            f"Measured on {diagnosis.examples} held-out examples of {diagnosis.length} "
            f"{'tokens' if _reads_text(diagnosis) else 'patches'} ({diagnosis.data}). Layers, heads, dimensions and "
            "positions count from 0: layers/mlp/out[2] is the feed-forward output of the third layer.",
            "note",
        ),
        page.heading("Where the outliers are"),
        *_outliers(diagnosis, said["outliers"]),
        *_writers(diagnosis),
        page.heading("Heads that do nothing"),
        *_heads(diagnosis, said["heads"]),
        page.heading("What fewer bits cost, and what would save it"),
        *_costs(diagnosis),
        *sensitivity_section({diagnosis.name: diagnosis.sweep}),
        page.footer(f"Written by qtx {__version__}{beside}."),
    ]
    return page.page(title, body)


def _outliers(diagnosis: Diagnosis, said: str) -> list[str]:
    items = [_growth_figure(diagnosis)]
    worst = sources(diagnosis)[:SHOWN_TENSORS]
    if not worst:
        return [page.figures([*items, page.card(page.paragraph(said))])]
    shown = {
        one.name: (diagnosis.reach[one.name], one.typical, [int(place) for place in list(one.dimensions)[:2]])
        for one in worst
    }
    items.append(
        page.figure(
            diagnosis_plots.dimensions(shown, OUTLIER_RATIO),
            "dimensions",
            "Which dimensions",
            "The largest magnitude of every dimension. Above the dashed line, and orange, are outliers: more than "
            f"{OUTLIER_RATIO:g} times what the median dimension holds (its root mean square).",
        )
    )
    caption = (
        "The tensors that make outliers (sums, which only carry them on, are left out). Largest value: averaged over "
        "examples; median dimension: its root mean square; deviations: from the tensor's mean, in standard deviations. "
        "An 8-bit grid has 256 steps from the smallest to the largest value: the further out the outliers, the fewer "
        "are left for all other values."
    )
    return [page.figures(items), page.table(*outlier_table(diagnosis, TABLE_ROWS), caption=caption)]


def _writers(diagnosis: Diagnosis) -> list[str]:
    if not diagnosis.writers:
        return []
    caption = (
        "A hidden unit writes a spike where its largest activation meets a large column of the kernel behind it; "
        "another unit, layers later, may erase what it wrote. Each is scaled to a tenth alone, without training, in "
        f"floating point and in {diagnosis.scheme.upper()}: a writer whose eraser stays as it is may do harm."
    )
    return [page.heading("Hidden units that write spikes"), page.table(*writer_table(diagnosis), caption=caption)]


def _growth_figure(diagnosis: Diagnosis) -> str:
    norms: dict[str, list[np.ndarray]] = {}
    for path, name in GROWTH.items():
        layers = sorted((one for one in diagnosis.outliers if one.path == path), key=lambda one: one.layer or 0)
        if layers:
            norms[name] = [np.array([one.norm for one in layers])]
    return page.figure(
        plots.over_layers(norms, "largest value", first=0),
        "growth",
        "Layer by layer",
        "The largest value of each layer's tensors, averaged over examples: where along the depth outliers arise, and "
        "how far the residual sums carry them.",
    )


def _heads(diagnosis: Diagnosis, said: str) -> list[str]:
    if not any(role.sink_mass for role in diagnosis.heads):
        return [page.paragraph(said)]
    heads = {name: np.array([getattr(role, name) for role in diagnosis.heads]) for name in ("sink_mass", "value_drain")}
    items = [
        page.figure(
            plots.sinks({"one mark per head": [heads]}),
            "sinks",
            "Every head",
            "Right: nearly all of its attention goes to one token. Low: that token's value is almost empty, so that "
            "attending to it adds nothing. A head at the lower right does nothing.",
        )
    ]
    idle = {(role.layer, role.head): role.name for role in idle_heads(diagnosis)}
    for head in diagnosis.maps:
        if (head.layer, head.head) in idle:
            name = idle[head.layer, head.head]
            caption = map_caption(head, ", on one example")
            items.append(page.figure(plots.attention_map(head, name), f"map-{head.layer}-{head.head}", name, caption))
    caption = (
        f"{'The heads that do nothing' if idle else 'The heads that come closest to doing nothing'}. Attention parked: "
        f"the share that goes to a token whose value is empty, and so adds nothing ({IDLE:.0%} or more: the head does "
        "nothing much of the time). Heads are made so by training with a softmax, whose probabilities add up to 1 even "
        "when there is nothing to say; the scores that this takes are what drives outliers."
    )
    return [page.table(*head_table(diagnosis, TABLE_ROWS), caption=caption), page.figures(items)]


def _costs(diagnosis: Diagnosis) -> list[str]:
    scale = 100.0 if diagnosis.metric == "accuracy" else 1.0
    title, scheme = METRIC_TITLES[diagnosis.metric], diagnosis.scheme.upper()
    ladder = {"FP" if name == "fp" else name.upper(): [scale * m.metric] for name, m in diagnosis.ladder.items()}
    methods = {name: scale * found.metric for name, found in diagnosis.methods.items()}
    items = [
        page.figure(
            plots.bit_ladder({diagnosis.name: ladder}, title),
            "ladder",
            "The ladder of bits",
            "Floating point (FP), then fewer bits; W8A6 would be 8-bit weights and 6-bit activations. Unless the "
            "config says otherwise, weights of fewer than 8 bits are clipped by MSE, which may do better than 8 bits "
            "from minimum to maximum. " + METRICS.get(diagnosis.metric, ""),
        ),
        page.figure(
            diagnosis_plots.remedies(methods, scale * diagnosis.ladder["fp"].metric, title),
            "remedies",
            f"Other ways to {scheme}",
            f"What each other way to quantize to {scheme} reaches, from what the config's own does (dashed) towards "
            "floating point (solid).",
        ),
    ]
    caption = (
        "Each way alone, without training. Weights by MSE: each weight's range clipped where the squared error is "
        "smallest (qtx quantize --config.quantization.weight_estimator=mse); percentile: activation ranges that leave "
        "out the outermost values; the others by qtx quantize --method=NAME: per_token finds ranges anew at every "
        "token, smoothquant moves sizes from activations into weights, hadamard spreads single dimensions over all by "
        "a rotation."
    )
    tables = [
        page.table(*ladder_table(diagnosis), caption=f"Held-out data, {title} and loss by bits."),
        page.table(*method_table(diagnosis), caption=caption),
    ]
    reasons = [f"{name} does not fit: {reason}" for name, reason in diagnosis.left_out.items()]
    return [page.figures(items), *tables, *([page.bullets(reasons)] if reasons else [])]


def _reads_text(diagnosis: Diagnosis) -> bool:
    return any(role.tokens for role in diagnosis.heads)
