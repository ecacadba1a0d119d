"""This module puts a diagnosis into words, for terminal and page: sentences for newcomers, and their tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from qtx.analysis.diagnosis import IDLE, OUTLIER_RATIO, QUIET, Diagnosis, HeadRole, Measured, Outliers
from qtx.analysis.sensitivity import HEADER, table_rows
from qtx.foundation.numbers import number, percent
from qtx.pages.plots import token_label
from qtx.pages.results import METRIC_TITLES, measured

Table = tuple[list[str], list[list[str]]]
SHOWN_ROWS, SHOWN_TENSORS = 6, 5
NAMED = 2
"""The most dimensions, tokens and positions that a cell or a sentence names."""
EVERYWHERE = 0.5
"""Outliers at more than this share of the tokens are not said to be at particular tokens."""


def sentences(diagnosis: Diagnosis) -> dict[str, str]:
    """Returns the findings in sentences, by what each is about: `outliers`, `writers` if there are any, `heads`,
    `cost`, `remedies`, `tensors`."""
    return {
        "outliers": _of_outliers(diagnosis),
        **({"writers": _of_writers(diagnosis)} if diagnosis.writers else {}),
        "heads": _of_heads(diagnosis),
        "cost": _of_cost(diagnosis),
        "remedies": _of_remedies(diagnosis),
        "tensors": _of_tensors(diagnosis),
    }


def tables(diagnosis: Diagnosis) -> dict[str, Table]:
    """Returns the table behind each of the `sentences`."""
    return {
        "outliers": outlier_table(diagnosis),
        **({"writers": writer_table(diagnosis)} if diagnosis.writers else {}),
        "heads": head_table(diagnosis),
        "cost": ladder_table(diagnosis),
        "remedies": method_table(diagnosis),
        "tensors": (HEADER, table_rows(diagnosis.sweep, SHOWN_TENSORS)),
    }


def measured_on(diagnosis: Diagnosis) -> str:
    """Says in two lines what was diagnosed, and on what."""
    examples = f"{diagnosis.examples} held-out examples of {diagnosis.length}: {diagnosis.data}"
    return f"{diagnosis.name}: {diagnosis.model}\n{examples}"


def sources(diagnosis: Diagnosis) -> list[Outliers]:
    """Returns the tensors that make outliers, and do not only carry what others made; the largest first."""
    return [one for one in diagnosis.outliers if one.dimensions and not one.carried]


def idle_heads(diagnosis: Diagnosis) -> list[HeadRole]:
    """Returns the heads that do nothing."""
    return [role for role in diagnosis.heads if role.does_nothing]


def outlier_table(diagnosis: Diagnosis, rows: int = SHOWN_ROWS) -> Table:
    """Tabulates the tensors with the largest outliers."""
    header = ["tensor", "largest value", "median dimension", "deviations", "in dimensions"]
    header += ["at tokens", "at positions"] if any(one.tokens for one in diagnosis.outliers) else ["at patches"]
    return header, [
        [one.name, *map(number, (one.norm, one.typical, one.sigmas)), _named(one.dimensions)]
        + ([_named(_texts(one))] if "at tokens" in header else [])
        + [", ".join(list(one.positions)[:NAMED])]
        for one in sources(diagnosis)[:rows]
    ]


def writer_table(diagnosis: Diagnosis) -> Table:
    """Tabulates the hidden units that write spikes, and what scaling each to a tenth would do."""
    title = METRIC_TITLES[diagnosis.metric]
    header = ["hidden unit", "writes", "into dimension", "times its layer's median unit"]
    header += [f"{title} with it at a tenth", diagnosis.scheme.upper()]
    return header, [
        [one.name, number(one.write), str(one.dimension), number(one.ratio)]
        + [measured(diagnosis.metric, value) for value in (one.floating, one.quantized)]
        for one in diagnosis.writers
    ]


def head_table(diagnosis: Diagnosis, rows: int = SHOWN_ROWS) -> Table:
    """Tabulates the heads that do nothing, or, if there are none, those that park most."""
    header = ["head", "attention parked", "at token", "at position", "length of its value", "head's output"]
    return header, [
        [
            role.name,
            percent(role.parked),
            _first(role.tokens),
            _first(role.positions),
            f"{percent(role.value_drain)} of the others'",
            f"{percent(role.output)} of its layer's mean",
        ]
        for role in (idle_heads(diagnosis) or diagnosis.heads)[:rows]
    ]


def ladder_table(diagnosis: Diagnosis) -> Table:
    """Tabulates what fewer bits cost."""
    rows = {"floating point" if name == "fp" else name.upper(): found for name, found in diagnosis.ladder.items()}
    return ["bits", *_measured_header(diagnosis)], [[name, *_cells(diagnosis, found)] for name, found in rows.items()]


def method_table(diagnosis: Diagnosis) -> Table:
    """Tabulates what other ways to quantize would save."""
    header = [f"{diagnosis.scheme.upper()} by", *_measured_header(diagnosis), "saved of what is lost"]
    rows = [[name, *_cells(diagnosis, found), _saved(diagnosis, found)] for name, found in diagnosis.methods.items()]
    return header, rows + [[name, "does not fit this model", "", ""] for name in diagnosis.left_out]


def _of_outliers(diagnosis: Diagnosis) -> str:
    found = sources(diagnosis)
    if not found:
        return (
            f"There are no outliers: no tensor has a value of more than {OUTLIER_RATIO:g} times what its median "
            "dimension holds (root mean square)."
        )
    worst = found[0]
    if worst.token_share > EVERYWHERE:
        place = f"{percent(worst.token_share)} of all {'tokens' if worst.tokens else 'patches'}"
    else:
        places = _listed(_texts(worst) or worst.positions)
        kind = "token" if worst.tokens else "patch"
        place = "the class token" if kind == "patch" and places == "class" else f"{kind} {places}"
    return (
        f"{worst.name} holds the largest outliers: {number(worst.norm)} in dimension {_listed(worst.dimensions)}, at "
        f"{place}, where half of its dimensions hold less than {number(worst.typical)} (root mean square)."
    )


def _of_writers(diagnosis: Diagnosis) -> str:
    first = diagnosis.writers[0]
    return (
        f"{first.name} writes the largest spike, {number(first.write)} into dimension {first.dimension} of the "
        f"residual stream, {number(first.ratio)} times what the median unit of its layer does."
    )


def _of_heads(diagnosis: Diagnosis) -> str:
    idle, total = idle_heads(diagnosis), len(diagnosis.heads)
    if not any(role.sink_mass for role in diagnosis.heads):
        return "No head attends to anything: attention is off."
    if not idle:
        return "No head does nothing."
    [(most, _)] = Counter(_first(role.tokens or role.positions) for role in idle).most_common(1)
    return (
        f"{len(idle)} of {total} heads do nothing much of the time: they park {IDLE:.0%} of their attention or more on "
        f"a token whose value they have emptied (mostly {most}), or say less than {QUIET:.0%} of what others say."
    )


def _of_cost(diagnosis: Diagnosis) -> str:
    metric, scheme = METRIC_TITLES[diagnosis.metric], diagnosis.scheme
    before, after = (measured(diagnosis.metric, diagnosis.ladder[name].metric) for name in ("fp", scheme))
    meaning = " (cosine to the original's outputs)" if diagnosis.metric == "fidelity" else ""
    told = "" if _lost(diagnosis) else ": nothing is lost"
    return f"{scheme.upper()} takes {metric}{meaning} from {before} to {after}{told}."


def _of_remedies(diagnosis: Diagnosis) -> str:
    sign = 1 if diagnosis.lower_is_better else -1
    best = min(diagnosis.methods, key=lambda name: sign * diagnosis.methods[name].metric)
    as_is = next(iter(diagnosis.methods))
    if best == as_is:
        return f"No other way to quantize to {diagnosis.scheme.upper()} does better than {as_is}."
    if not _lost(diagnosis):
        return f"{diagnosis.scheme.upper()} loses nothing that another way to quantize could save."
    found = diagnosis.methods[best]
    reached, saved = measured(diagnosis.metric, found.metric), _saved(diagnosis, found)
    return (
        f"Of other ways to quantize to {diagnosis.scheme.upper()}, {best} does best: {METRIC_TITLES[diagnosis.metric]} "
        f"{reached}{f', which saves {saved} of what is lost' if saved else ''}."
    )


def _of_tensors(diagnosis: Diagnosis) -> str:
    row = diagnosis.sweep.rows[0]
    alone, without = (measured(diagnosis.metric, x) for x in (row.alone, row.without))
    return (
        f"The {row.kind} {row.name} costs most: {METRIC_TITLES[diagnosis.metric]} {alone} with it alone quantized, "
        f"{without} with all but it."
    )


def _measured_header(diagnosis: Diagnosis) -> list[str]:
    loss = "relative squared error" if diagnosis.metric == "fidelity" else "loss"
    return [METRIC_TITLES[diagnosis.metric], loss]


def _cells(diagnosis: Diagnosis, found: Measured) -> list[str]:
    return [measured(diagnosis.metric, found.metric), number(found.loss)]


def _lost(diagnosis: Diagnosis) -> float:
    """Returns how much of the metric the scheme costs: 0 unless the numbers, as they are shown, say that it costs any;
    not finite if one of them is not."""
    before, after = (diagnosis.ladder[name].metric for name in ("fp", diagnosis.scheme))
    lost = after - before if diagnosis.lower_is_better else before - after
    alike = math.isfinite(lost) and measured(diagnosis.metric, before) == measured(diagnosis.metric, after)
    return 0.0 if alike or lost <= 0 else lost


def _saved(diagnosis: Diagnosis, found: Measured) -> str:
    """Says which share of what is lost a method saves; empty if nothing is lost, or there is no share of it."""
    lost, after = _lost(diagnosis), diagnosis.ladder[diagnosis.scheme].metric
    if not lost or not math.isfinite(lost):
        return ""
    saved = (after - found.metric if diagnosis.lower_is_better else found.metric - after) / lost
    return "all" if saved >= 1 else percent(saved)


def _texts(one: Outliers) -> dict[str, float]:
    return {token_label(token): size for token, size in one.tokens.items()}


def _named(places: Mapping[str, float]) -> str:
    return "; ".join(f"{place} ({number(size)})" for place, size in list(places.items())[:NAMED])


def _listed(places: Mapping[str, float]) -> str:
    """Names the places whose values are at least half as large as the first, e.g. `99 and 223`."""
    largest = next(iter(places.values()))
    names = [place for place, size in places.items() if size >= largest / 2][:NAMED]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _first(places: Iterable[str]) -> str:
    return token_label(next(iter(places), ""))
