"""Parameters of a normalizer or a gate: what they are, apart from the framework that holds them."""

from __future__ import annotations

from typing import NamedTuple

from qtx.foundation.errors import QtxError


class Parameter(NamedTuple):
    """One array. A gate's that has a name which ends in "kernel" multiplies activations: it decays, as kernels do; no
    other does.

    Attributes:
      shape: of one layer's.
      start: its initial value; None: normal, with the model's `init_std`.
      axes: logical names of its first dimensions (`qtx.axes`).
    """

    shape: tuple[int, ...]
    start: float | None = None
    axes: tuple[str | None, ...] = ()


Parameters = dict[str, Parameter]

NORMALIZER = "normalizer"
"""Name of the modules that hold the parameters of normalizers, which stay in floating point, wherever they are."""

KNOWN_BY_NAME = {"embedding": "look-up tables", "scale": "the scales of norms"}
"""Endings by which training and quantization know parameters of another kind."""


def check_parameters(parameters: Parameters, of_gate: bool) -> None:
    """Raises QtxError for a parameter with more axes than dimensions, or, of a gate, with a name by which it would be
    taken for something else."""
    for name, parameter in parameters.items():
        if len(parameter.axes) > len(parameter.shape):
            raise QtxError(f"parameter {name!r} has axes {parameter.axes} for shape {parameter.shape}: too many")
        for ending, kind in KNOWN_BY_NAME.items() if of_gate else ():
            if name.endswith(ending):
                raise QtxError(f"a gate's parameter is called {name!r}, by which {kind} are known: rename it")
