"""This module finds the cheapest mixed precision at which a quantized run reaches a target."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
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
from qtx.pipeline.quantize import under, unrounded
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
    priced = prices(read(quantized.module, batches[0]), quantized, assembled.experiment.model.width)
    return Trade(few, batches, unrounded(run, scheme), quantized, priced, bits)


@dataclasses.dataclass(frozen=True)
class Goal:
    """A `Goal` says what a metric is to be.

    Attributes:
      number: the value; or, of the one in floating point, the share.
      share: whether it is a share. Where lower is better, half of floating point is twice its value.
    """

    number: float
    share: bool = False

    def value(self, floating: float, lower_is_better: bool) -> float:
        """Returns the value that is meant.

        Raises:
          QtxError: if floating point itself does not reach it.
        """
        found = self.number
        if self.share:
            found = floating / self.number if lower_is_better else floating * self.number
        if found < floating if lower_is_better else found > floating:
            raise QtxError(
                f"the target is {found:g}, and floating point itself has {floating:g}: ask for no more than that, or "
                "for a share of it, e.g. 99%"
            )
        return found


def read_goal(text: str) -> Goal:
    """Reads a goal: a value of the metric, "0.99", or a share of the one in floating point, "99%".

    Raises:
      QtxError: if it is neither.
    """
    share = text.endswith("%")
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise QtxError(f"the target is {text}: expected a value of the metric, e.g. 0.99, or a share of it, e.g. 99%")
    return Goal(number / 100 if share else number, share)


def to_target(
    run: TrainedRun, scheme: str, goal: Goal, bits: int = 0, tell: Callable[[str], Any] = lambda step: None
) -> tuple[TrainedRun, Mixed]:
    """Finds the cheapest tensors to leave at more bits, so that a run reaches a target under a scheme.

    The search is on a few held-out examples, where it asks for as much less than floating point as the target is. What
    it finds is calibrated and measured on all of them; if too little is left there, as much more is asked for.

    Args:
      run: the run.
      scheme: the bits of all other tensors, e.g. "w8a8".
      goal: the target.
      bits: what the tensors are left at; 0: floating point.
      tell: is called with the name of each step as the step begins.

    Returns:
      the run with these tensors exempt, and what was found.

    Raises:
      QtxError: if the run was trained under a scheme, the target cannot be reached, or the recipe does not fit.
    """
    if run.assembled.qat is not None:
        raise QtxError(
            "a target is for quantization after training: the ranges of this run were trained with all its tensors"
        )
    objective = run.assembled.objective
    metric, sign = objective.metric, 1 if objective.lower_is_better else -1
    tell("measuring floating point")
    floating = metrics_of(run.assembled, FloatingPoint(run.assembled.module, run.floating_point))[metric]
    target = goal.value(floating, objective.lower_is_better)
    tell(f"quantizing to {scheme}")
    offer, kept = trade(run, scheme, bits), bits or FLOAT_BITS
    number, known = len(offer.tensors), dict[frozenset[Target], float]()

    def measured(some: Sequence[Target]) -> float:
        key = frozenset(some)
        if key not in known:
            tell(f"{len(key)} of {number} tensors exempt? (measurement {len(known) + 1})")
            known[key] = offer.metric(some)
        return known[key]

    order = offer.order()
    best = measured(offer.tensors)
    found: list[Target] = []
    for _ in range(ROUNDS):
        tell("calibrating, and measuring on all held-out data")
        exempt = tuple(Exempt(path, layer, bits) for _, path, layer in found)
        mixed = run.with_quantization(exempt=tuple(map(str, exempt)))
        reached = metrics_of(mixed.assembled, under(mixed, scheme))[metric]
        if sign * reached <= sign * target:
            each = tuple(offer.prices.of([one], kept) for one in found)
            return mixed, Mixed(scheme, exempt, each, offer.prices.of(found, kept), number, metric, target, reached)
        missing = min(sign * (best + target - floating), sign * (measured(found) + target - reached))
        wanted = sign * max(sign * best, missing)  # of the few, no more than floating point has
        tell("looking for the tensors that cost most")
        order, this_time = itertools.tee(order)
        holds = functools.partial(_holds, measured, sign, wanted)
        enough = cheapest(this_time, holds, offer.price)
        found = offer.tensors if enough is None else enough
    raise QtxError(
        f"{scheme} did not reach {metric} {fixed(target)}, but {fixed(reached)} with {len(exempt)} of {number} tensors "
        "exempt: ask for less"
    )


def _holds(measured: Callable[[Sequence[Target]], float], sign: int, wanted: float, some: Sequence[Target]) -> bool:
    return sign * measured(some) <= sign * wanted
