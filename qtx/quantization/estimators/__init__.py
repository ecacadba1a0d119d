"""Range estimators: streams of tensors to [minimum, maximum]. A new one is a file here and a line in `ESTIMATORS`.

An estimator is a frozen dataclass of its options with, in optax's manner,

    init() -> state                                     (a dict of arrays)
    update(state, x, bits, symmetric) -> state
    result(state) -> (minimum, maximum)
"""

from qtx.quantization.estimators.minmax import MinMax
from qtx.quantization.estimators.mse import Mse
from qtx.quantization.estimators.running_minmax import RunningMinMax

ESTIMATORS = {
    "minmax": MinMax,
    "running_minmax": RunningMinMax,
    "mse": Mse,
}

__all__ = ["ESTIMATORS", "MinMax", "Mse", "RunningMinMax"]
