"""Learning-rate schedules: a linear warm-up, then one of `SCHEDULES`."""

from __future__ import annotations

from collections.abc import Callable

import optax


def cosine(peak: float, final: float, steps: int) -> optax.Schedule:
    """Returns the schedule that goes from `peak` to `final` along half a cosine wave."""
    return optax.cosine_decay_schedule(peak, steps, alpha=final / peak)


def constant(peak: float, final: float, steps: int) -> optax.Schedule:
    """Returns the schedule that stays at `peak`; there is no final value to reach."""
    return optax.constant_schedule(peak)


# Name -> (peak, final, steps) -> schedule after the warm-up. A new schedule is a function and a line here.
SCHEDULES: dict[str, Callable[[float, float, int], optax.Schedule]] = {
    "linear": optax.linear_schedule,
    "cosine": cosine,
    "constant": constant,
}


def learning_rate_schedule(
    name: str, *, initial: float, peak: float, final: float, warmup_steps: int, steps: int
) -> optax.Schedule:
    """Returns the schedule: number of updates done so far -> learning rate of the next update.

    As in the paper's recipes, update 0 uses `initial` and update `warmup_steps` the `peak`; `SCHEDULES[name]` goes on
    from there to `final` at `steps`.
    """
    decay = SCHEDULES[name](peak, final, steps - warmup_steps)
    if warmup_steps == 0:
        return decay
    warmup = optax.linear_schedule(initial, peak, warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])
