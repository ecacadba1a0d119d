"""Range estimators: streams of tensors to [minimum, maximum]. A new one is a file here and a line in `ESTIMATORS`.

An estimator is a frozen dataclass of its options with, in optax's manner,

    init() -> state                                     (a dict of arrays)
    update(state, x, bits, symmetric, where) -> state   (where: the values that count, None: all)
    result(state) -> (minimum, maximum)

A state is of fixed size, so memory does not grow with what an estimator has seen.
"""

import functools
from collections.abc import Callable
from typing import Any

from qtx.quantization.estimators.lp import Lp
from qtx.quantization.estimators.minmax import MinMax
from qtx.quantization.estimators.mse import Mse
from qtx.quantization.estimators.running_minmax import RunningMinMax

ESTIMATORS: dict[str, Callable[..., Any]] = {
    "minmax": MinMax,
    "running_minmax": RunningMinMax,
    "mse": Mse,
    "mse_golden": functools.partial(Mse, search="golden"),
    "lp": Lp,
}

__all__ = ["ESTIMATORS", "Lp", "MinMax", "Mse", "RunningMinMax"]
