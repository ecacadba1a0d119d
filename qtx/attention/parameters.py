"""Parameters of a normalizer or a gate: what they are, apart from the framework that holds them."""

from __future__ import annotations

from typing import NamedTuple


class Parameter(NamedTuple):
    """One array. A name that ends in "kernel" says that it multiplies activations: it decays, as kernels do; no other
    does.

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
