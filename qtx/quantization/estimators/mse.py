"""Least squared error: the p-norm search at p = 2."""

from __future__ import annotations

import dataclasses

from qtx.foundation.errors import QtxError
from qtx.quantization.estimators.lp import Lp


@dataclasses.dataclass(frozen=True)
class Mse(Lp):
    """The clipped range with the least squared error (Banner et al. 2019; Choukroun et al. 2019). The paper uses it for
    weights below 8 bits and for OPT."""

    p: float = 2.0

    def __post_init__(self):
        super().__post_init__()
        if self.p != 2:
            raise QtxError(f"p is {self.p}: mse is the search at p = 2; choose lp,p={self.p}")
