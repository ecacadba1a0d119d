"""Range estimators: from a stream of tensors to [minimum, maximum]. A new one is an `Estimator` in a file here, and a
line in `ESTIMATORS`."""

from qtx.quantization.estimators.base import Estimator
from qtx.quantization.estimators.lp import Lp
from qtx.quantization.estimators.minmax import MinMax
from qtx.quantization.estimators.mse import Mse
from qtx.quantization.estimators.running_minmax import RunningMinMax

ESTIMATORS: dict[str, type[Estimator]] = {
    "minmax": MinMax,
    "running_minmax": RunningMinMax,
    "mse": Mse,
    "lp": Lp,
}

__all__ = ["ESTIMATORS", "Estimator", "Lp", "MinMax", "Mse", "RunningMinMax"]
