"""Learning-rate schedules: a linear warm-up, then one of `SCHEDULES`."""

from __future__ import annotations

import typing
from collections.abc import Callable

import optax

if typing.TYPE_CHECKING:
    from qtx.training.config import TrainingConfig


def linear(peak: float, final: float, steps: int) -> optax.Schedule:
    """From `peak` to `final` in a straight line."""
    return optax.linear_schedule(peak, final, steps)


def cosine(peak: float, final: float, steps: int) -> optax.Schedule:
    """From `peak` to `final` along half a cosine wave."""
    return optax.cosine_decay_schedule(peak, steps, alpha=final / peak)


def constant(peak: float, final: float, steps: int) -> optax.Schedule:
    """`peak` throughout; there is no final value to reach."""
    return optax.constant_schedule(peak)


# Name -> (peak, final, steps) -> schedule of the part after the warm-up. A new one is a function and a line here.
SCHEDULES: dict[str, Callable[[float, float, int], optax.Schedule]] = {
    "linear": linear,
    "cosine": cosine,
    "constant": constant,
}


def learning_rate_schedule(config: TrainingConfig) -> optax.Schedule:
    """Number of updates done so far -> learning rate of the next one.

    As in the paper's recipes, update 0 uses `initial_learning_rate` and update `warmup_steps` the peak.
    """
    decay_steps = config.steps - config.warmup_steps
    decay = SCHEDULES[config.schedule](config.learning_rate, config.final_learning_rate, decay_steps)
    if config.warmup_steps == 0:
        return decay
    warmup = optax.linear_schedule(config.initial_learning_rate, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, decay], [config.warmup_steps])
