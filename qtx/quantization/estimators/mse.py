"""Least squared error: the p-norm search at p = 2."""

from __future__ import annotations

import dataclasses

from qtx.quantization.estimators.lp import Lp


@dataclasses.dataclass(frozen=True)
class Mse(Lp):
    """The clipped range with the least squared error (Banner et al. 2019; Choukroun et al. 2019). The paper uses it for
    weights below 8 bits and for OPT."""

    p: float = 2.0
