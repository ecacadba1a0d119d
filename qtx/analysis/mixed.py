"""Mixed precision: the cheapest tensors to leave in floating point so that a quantized model reaches a target."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence

from qtx.analysis.prices import Price
from qtx.analysis.sensitivity import Target
from qtx.quantization.recipe import Exempt


@dataclasses.dataclass(frozen=True)
class Mixed:
    """A mixed precision.

    Attributes:
      scheme: the bits of most tensors, e.g. "w8a8".
      exempt: the tensors that are left at more, those first that save most for their price.
      each, price: what each costs alone, and all together.
      of: the number of tensors that the scheme quantizes.
      metric, target, reached: what was asked for, and what all held-out data say.
    """

    scheme: str
    exempt: tuple[Exempt, ...]
    each: tuple[Price, ...]
    price: Price
    of: int
    metric: str
    target: float
    reached: float


def cheapest(
    order: Iterable[Target],
    holds: Callable[[Sequence[Target]], bool],
    price: Callable[[Sequence[Target]], float],
) -> list[Target] | None:
    """Finds tensors that are enough to leave in floating point, and of which none can be spared.

    Tensors are added in order until the target holds, first 1, then 2, 4, 8 ..., and of these the fewest that are
    enough are found by halving. Then each is put back on its grid, the dearest first, and stays there if the target
    holds without it. Every step is measured; the order is what is guessed.

    Args:
      order: all tensors, those that save most for their price first.
      holds: says whether the model reaches the target with some tensors left in floating point.
      price: of some tensors.

    Returns:
      the tensors, in their order; None: all together are not enough.
    """
    if holds(()):
        return []
    waiting, enough = iter(order), False
    found: list[Target] = []
    fewest = 0  # so many are too few
    while not enough:
        more = list(itertools.islice(waiting, max(len(found), 1)))
        if not more:
            return None
        fewest = len(found)
        found += more
        enough = holds(found)
    most = len(found)
    while most - fewest > 1:
        middle = (fewest + most) // 2
        fewest, most = (fewest, middle) if holds(found[:middle]) else (middle, most)
    found = found[:most]
    for target in sorted(reversed(found), key=lambda one: price([one]), reverse=True):
        others = [one for one in found if one != target]
        if holds(others):
            found = others
    return found
