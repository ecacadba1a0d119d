"""This module measures what quantizing each tensor of a trained run costs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

from qtx.analysis.sensitivity import Sweep, Target, sweep, targets
from qtx.pipeline.measure import sums_of
from qtx.pipeline.quantize import under, unrounded
from qtx.pipeline.run import TrainedRun
from qtx.quantization import Quantized
from qtx.training.evaluate import add_up


def find_sensitivity(
    run: TrainedRun, scheme: str, track: Callable[[Sequence[Target]], Iterable[Target]] = iter
) -> Sweep:
    """Measures what each tensor costs under a scheme, on the config's `sensitivity_batches` held-out batches."""
    assembled = run.assembled
    config, objective = assembled.experiment.quantization, assembled.objective
    quantized = under(run, scheme)
    batches = list(itertools.islice(assembled.evaluation(), config.sensitivity_batches))

    def metric_of(model: Quantized) -> float:
        return add_up(sums_of(assembled, model), batches)[objective.metric]

    return sweep(
        quantized,
        unrounded(run, scheme),
        batches,
        metric_of,
        track(targets(quantized)),
        scheme=scheme,
        metric=objective.metric,
        lower_is_better=objective.lower_is_better,
    )
