"""Parameters of a normalizer or a gate, described apart from the framework that holds them."""

from __future__ import annotations

from typing import NamedTuple

from qtx.foundation.errors import QtxError


class Parameter(NamedTuple):
    """One array that a normalizer or a gate learns. If it is a gate's and its name ends in "kernel", it multiplies
    activations and decays, as kernels do; no other parameter decays.

    Attributes:
      shape: the shape of one layer's array.
      start: the initial value; None: normal, with the model's `init_std`.
      axes: the logical names of the first dimensions (`qtx.axes`).
    """

    shape: tuple[int, ...]
    start: float | None = None
    axes: tuple[str | None, ...] = ()


Parameters = dict[str, Parameter]

NORMALIZER = "normalizer"
"""The name of the modules that hold normalizers' parameters, which stay in floating point wherever they are."""


def check_parameters(parameters: Parameters) -> None:
    """Raises QtxError for a parameter with more axes than dimensions."""
    for name, parameter in parameters.items():
        if len(parameter.axes) > len(parameter.shape):
            raise QtxError(f"parameter {name!r} has axes {parameter.axes} for shape {parameter.shape}: too many")
