"""The price of leaving tensors of a quantized model in floating point: products that leave the integers, and bytes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

from qtx.analysis.sensitivity import Target, targets
from qtx.anatomy import Anatomy
from qtx.anatomy.description import stack_of
from qtx.anatomy.flow import Origin
from qtx.parts import Part
from qtx.quantization import Quantized

FLOAT_BITS = 32


class Price(NamedTuple):
    """A `Price` says what it costs to leave tensors as they are.

    Attributes:
      products: the share of the multiplications on integers that leave them, 0 to 1.
      bytes: by how much the weights grow.
      of_bytes: the bytes of the quantized weights.
    """

    products: float
    bytes: float
    of_bytes: float

    @property
    def share(self) -> float:
        """Returns one number to compare by: a percent of the products is as dear as a percent of the weights."""
        return self.products + self.bytes / max(self.of_bytes, 1.0)


class Prices(NamedTuple):
    """The prices of a quantized model's tensors.

    Attributes:
      products: of each product on integers, the multiplications for one token, and the tensors that it reads.
      weights: of each weight, the size, and its bits.
    """

    products: tuple[tuple[int, frozenset[Target]], ...]
    weights: Mapping[Target, tuple[int, float]]

    def of(self, left: Collection[Target], bits: int = FLOAT_BITS) -> Price:
        """Returns what it costs to leave some tensors at more bits."""
        chosen = frozenset(left)
        total = sum(count for count, _ in self.products)
        off = sum(count for count, read in self.products if not read.isdisjoint(chosen))
        grown = sum(self.weights[x][0] * (bits - self.weights[x][1]) / 8 for x in chosen if x in self.weights)
        return Price(off / max(total, 1), grown, sum(size * b / 8 for size, b in self.weights.values()))


def prices(anatomy: Anatomy, quantized: Quantized, width: int) -> Prices:
    """Returns the prices of a model's tensors; `width` is the model's."""
    known, sizes = targets(quantized), {}
    for kind, path, layer in known:
        if kind == "weight":
            bits = quantized.weight_ranges[path]["bits"].ravel()[layer or 0]
            sizes[kind, path, layer] = math.prod(anatomy.parameters[path].shape), float(bits)
    length = max((site.features for site in anatomy.sites_of([Part.PROBS])), default=0)
    found = []
    for path, operands in anatomy.operands.of.items():
        kernel, stack = anatomy.kernel_of(path), stack_of(anatomy.stacks, path)
        count = length * width if kernel is None else math.prod(kernel.shape)
        for layer in (None,) if stack is None else range(stack.depth):
            read = [_target(anatomy, origin, layer) for origin in operands]
            if kernel is not None:
                read.append(("weight", kernel.path, None if kernel.stack is None else layer))
            there = frozenset(target for target in known if target in read)
            if there == frozenset(read):
                found.append((count, there))
    return Prices(tuple(found), sizes)


def _target(anatomy: Anatomy, origin: Origin | None, layer: int | None) -> Target | None:
    """Returns the site that a product in a layer reads; None: it reads none."""
    if origin is None or origin.site is None:
        return None
    before = layer is not None and origin.later is not None and layer > 0
    path = origin.later if before and origin.later else origin.site
    leading = anatomy.leading(path)
    if not leading:
        return ("activation", path, None)
    if layer is None or origin.last:
        return ("activation", path, leading[0] - 1)
    return ("activation", path, layer - before)
