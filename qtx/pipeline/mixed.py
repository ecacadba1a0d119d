"""This module finds the cheapest mixed precision at which a quantized run reaches a target."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from qtx.analysis.capture import FloatingPoint
from qtx.analysis.mixed import Mixed, cheapest
from qtx.analysis.prices import FLOAT_BITS, Prices, prices
from qtx.analysis.sensitivity import Target, costliest, targets, with_some
from qtx.anatomy import read
from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError
from qtx.foundation.numbers import fixed
from qtx.pipeline.analyze import SWEPT, sampled
from qtx.pipeline.assemble import Assembled
from qtx.pipeline.measure import metrics_of, sums_of
from qtx.pipeline.quantize import under
from qtx.pipeline.run import TrainedRun
from qtx.quantization import Quantized
from qtx.quantization.recipe import Exempt
from qtx.training.evaluate import add_up

ROUNDS = 6
"""How often more is asked for on the few examples, where all held-out data say that too little is left."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trade:
    """A `Trade` says what a run wins, on a few held-out examples, and what it pays, by tensors at more bits.

    Attributes:
      few: the run's experiment on these examples.
      batches: the examples.
      params: the parameters in floating point.
      quantized: the model with every tensor of its scheme quantized.
      prices: of the tensors.
      bits: what is left has; 0: floating point.
    """

    few: Assembled
    batches: Sequence[Batch]
    params: Any
    quantized: Quantized
    prices: Prices
    bits: int = 0

    @functools.cached_property
    def tensors(self) -> list[Target]:
        """Returns all tensors that are quantized."""
        return targets(self.quantized)

    def price(self, some: Sequence[Target]) -> float:
        """Returns one number for what is paid; a tensor that costs nothing has a small price, too."""
        return self.prices.of(some, self.bits or FLOAT_BITS).share + len(some) / len(self.tensors)

    def metric(self, some: Sequence[Target]) -> float:
        """Returns the metric with some tensors left in floating point."""
        return self.measured(with_some(self.quantized, self.params, some, alone=False))

    def order(self) -> Iterator[Target]:
        """Yields the tensors, those first that cost most for their price when quantized alone, on part of the
        examples."""
        part = -(-len(self.batches) // SWEPT)
        lower = self.few.objective.lower_is_better
        return costliest(self.quantized, self.params, lambda model: self.measured(model, part), lower, self.price)

    def measured(self, model: Quantized, number: int | None = None) -> float:
        """Returns the metric of a model on the first `number` batches; None: on all."""
        return add_up(sums_of(self.few, model), self.batches[:number])[self.few.objective.metric]


def trade(run: TrainedRun, scheme: str, bits: int = 0) -> Trade:
    """Quantizes a run, without exempt tensors, and returns what it costs to exempt some."""
    assembled, few = run.assembled, sampled(run.assembled)
    batches, quantized = list(few.evaluation()), under(run.with_quantization(exempt=()), scheme)
    priced = prices(read(assembled.module, batches[0]), quantized, assembled.experiment.model.width)
    return Trade(few, batches, run.floating_point, quantized, priced, bits)


def to_target(
    run: TrainedRun, scheme: str, text: str, bits: int = 0, tell: Callable[[str], Any] = lambda step: None
) -> tuple[TrainedRun, Mixed]:
    """Finds the cheapest tensors to leave at more bits, so that a run reaches a target under a scheme.

    The search is on a few held-out examples. What it finds is calibrated and measured on all of them; if too little is
    left there, as much more is asked for on the few.

    Args:
      run: the run.
      scheme: the bits of all other tensors, e.g. "w8a8".
      text: the target, see `read_target`.
      bits: what the tensors are left at; 0: floating point.
      tell: is called with the name of each step as the step begins.

    Returns:
      the run with these tensors exempt, and what was found.

    Raises:
      QtxError: if the run was trained under a scheme, the target cannot be reached, or the recipe does not fit.
    """
    if run.assembled.qat is not None:
        raise QtxError(
            "--target is for quantization after training: the ranges of this run were trained with all its tensors"
        )
    objective = run.assembled.objective
    metric, sign = objective.metric, 1 if objective.lower_is_better else -1
    tell("measuring floating point")
    floating = metrics_of(run.assembled, FloatingPoint(run.assembled.module, run.floating_point))[metric]
    target = read_target(text, floating, objective.lower_is_better)
    tell(f"quantizing to {scheme}")
    offer = trade(run, scheme, bits)
    number, known = len(offer.tensors), dict[frozenset[Target], float]()

    def holds(wanted: float, some: Sequence[Target]) -> bool:
        key = frozenset(some)
        if key not in known:
            tell(f"{metric} {fixed(wanted)} with {len(key)} of {number} tensors exempt? (measurement {len(known) + 1})")
            known[key] = offer.metric(some)
        return sign * known[key] <= sign * wanted

    tell("looking for the tensors that cost most")
    order, wanted, kept = offer.order(), target, bits or FLOAT_BITS
    for _ in range(ROUNDS):
        order, this_time = itertools.tee(order)
        found = cheapest(this_time, functools.partial(holds, wanted), offer.price)
        if found is None:
            break
        exempt = tuple(Exempt(path, layer, bits) for _, path, layer in found)
        mixed = run.with_quantization(schemes=(scheme,), exempt=tuple(map(str, exempt)))
        tell("calibrating, and measuring on all held-out data")
        reached = metrics_of(mixed.assembled, under(mixed, scheme))[metric]
        if sign * reached <= sign * target:
            each = tuple(offer.prices.of([one], kept) for one in found)
            return mixed, Mixed(scheme, exempt, each, offer.prices.of(found, kept), number, metric, target, reached)
        wanted = known[frozenset(found)] + target - reached
    raise QtxError(
        f"{metric} {fixed(target)} was not reached by {scheme}, whichever of {number} tensors were exempt: ask for less"
    )


def read_target(text: str, floating: float, lower_is_better: bool) -> float:
    """Returns the value of a metric that a text names: a number, or a share of the one in floating point, "99%".

    Raises:
      QtxError: if it is neither, or floating point itself does not reach it.
    """
    match = re.fullmatch(r"(\d*\.?\d+)(%?)", text)
    if match is None or not float(match[1]):
        raise QtxError(f"--target={text}: expected a value of the metric, e.g. 0.99, or a share of it, e.g. 99%")
    number = float(match[1])
    if match[2]:
        number = floating / (number / 100) if lower_is_better else floating * (number / 100)
    if number < floating if lower_is_better else number > floating:
        raise QtxError(
            f"--target={text}: floating point itself has {floating:g}: expected a value that is no better, or a share "
            "of it, e.g. 99%"
        )
    return number
