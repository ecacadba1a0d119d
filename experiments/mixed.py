"""Mixed precision to targets, by the search of `qtx quantize --target` and by a greedy: what stays, what it costs.

    python -m experiments.mixed runs/minilm-2l --targets 0.98 0.99 0.995 --greedy > mixed.jsonl

prints a JSON line for each run and target: the exempt tensors, what they cost, how many measurements of the model the
search took, and what was reached. The greedy adds, again and again, the tensor that wins most for its price when it is
left out beside those that are: a measurement of every tensor for each that it adds. Both are held to the same few
texts, on which the metric is reported; `reached` is measured after a calibration, on all held-out data.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.bad_input import told_in_a_line
from qtx.analysis.mixed import cheapest
from qtx.analysis.prices import FLOAT_BITS
from qtx.analysis.sensitivity import Target
from qtx.pipeline.measure import metrics_of
from qtx.pipeline.mixed import Trade, trade
from qtx.pipeline.quantize import under
from qtx.pipeline.run import TrainedRun, load_run
from qtx.quantization.recipe import Exempt


def by_search(offer: Trade, holds: Callable[..., bool]) -> list[Target]:
    """Returns the tensors of `qtx quantize --target`."""
    found = cheapest(offer.order(), holds, offer.price)
    return offer.tensors if found is None else found


def by_greedy(offer: Trade, holds: Callable[..., bool]) -> list[Target]:
    """Returns the tensors of a greedy."""
    sign = 1 if offer.few.objective.lower_is_better else -1
    left: list[Target] = []
    while not holds(left):
        others = [one for one in offer.tensors if one not in left]
        before = sign * offer.metric(left)

        def won(one: Target) -> float:
            return (before - sign * offer.metric([*left, one])) / offer.price([one])  # noqa: B023

        left.append(max(others, key=won))
    return left


SEARCHES = {"search": by_search, "greedy": by_greedy}


@dataclasses.dataclass(frozen=True, eq=False)
class Counting(Trade):
    """A `Trade` that counts how often it measures the model."""

    done: list[int] = dataclasses.field(default_factory=lambda: [0])

    def measured(self, model, number=None):
        self.done[0] += 1
        return super().measured(model, number)


def row(run: TrainedRun, offer: Trade, scheme: str, target: float, name: str) -> dict[str, Any]:
    """Returns what one of `SEARCHES` finds, as a row."""
    counting = Counting(**{field.name: getattr(offer, field.name) for field in dataclasses.fields(Trade)})
    sign, began = 1 if offer.few.objective.lower_is_better else -1, time.monotonic()

    @functools.cache
    def reached(some: frozenset[Target]) -> bool:
        return sign * counting.metric(list(some)) <= sign * target

    left = SEARCHES[name](counting, lambda some: reached(frozenset(some)))
    seconds, price = time.monotonic() - began, offer.prices.of(left, FLOAT_BITS)
    exempt = tuple(str(Exempt(path, layer, 0)) for _, path, layer in left)
    mixed = run.with_quantization(schemes=(scheme,), exempt=exempt)
    metric = run.assembled.objective.metric
    return {
        "run": run.workdir.name, "scheme": scheme, "recipe": run.assembled.experiment.quantization.recipe,
        "metric": metric, "target": target, "by": name, "quantized": offer.metric(()), "on_few": offer.metric(left),
        "reached": metrics_of(run.assembled, under(mixed, scheme))[metric], "tensors": len(left),
        "of": len(offer.tensors), "products": round(price.products, 4), "bytes": round(price.bytes / price.of_bytes, 4),
        "measurements": counting.done[0], "seconds": round(seconds, 1), "exempt": exempt,
    }  # fmt: skip


@told_in_a_line("experiments.mixed")
def main(arguments: list[str] | None = None) -> int:
    """Measures the runs and prints the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--targets", nargs="+", type=float, default=[0.99])
    parser.add_argument("--scheme", default="w8a8")
    parser.add_argument("--greedy", action="store_true")
    given = parser.parse_args(arguments)
    for place in given.runs:
        run = load_run(place)
        offer = trade(run, given.scheme)
        for target in given.targets:
            for name in SEARCHES if given.greedy else ["search"]:
                print(json.dumps(row(run, offer, given.scheme, target, name)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
