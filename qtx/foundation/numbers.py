"""Numbers as text for people, in tables, pages and sentences: a number other than 0 is never written as 0, and one
other than 1 or 100 % never as these."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

ROUNDING = 2.0**-22
"""The relative distance from `whole` within which a number is taken for it: float32 is no more exact."""


def fixed(value: float, places: int = 4, whole: float = 1.0) -> str:
    """Writes a number to so many decimal places, `0.9980`; to two digits if those would all be 0, `2.1e-05`, and to
    more places if the text would wrongly say `whole`, `0.99996`."""
    if value and not float(f"{value:.{places}f}"):
        return f"{value:.2g}"
    return told_apart(value, places, "f", whole)


def told_apart(value: float, digits: int, kind: str, whole: float = 1.0) -> str:
    """Writes a number in the format `.{digits}{kind}`, with more digits if the text would wrongly say `whole`."""
    while abs(value - whole) > ROUNDING * whole and float(f"{value:.{digits}{kind}}") == whole:
        digits += 1
    return f"{value:.{digits}{kind}}"


def number(value: float, whole: float = 1.0) -> str:
    """Writes a measurement to about three digits: `4.49`, `21.5`, `735`, `1.3e+07`, `0.0021`; `whole` as in `fixed`."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if float(value).is_integer() and (isinstance(value, int) or size == 0):
        return f"{value:,.0f}"
    if size >= 1e6:
        return f"{value:.2g}"
    if size < 0.1:
        return f"{value:#.2g}"
    return fixed(value, 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3, whole)


def percent(share: float) -> str:
    """Writes a share as `37%`, and as `0.3%` or `99.7%` near the ends."""
    return f"{fixed(100 * share, 0, 100.0)}%"


def mean_and_deviation(values: Sequence[float], text: Callable[[float], str] = number) -> str:
    """Writes `mean ± standard deviation` over seeds (unbiased; two digits), or the one value; the mean by `text`."""
    if len(values) == 1 or len(set(values)) == 1:
        return text(values[0])
    mean = sum(values) / len(values)
    # Not statistics.stdev, which fails on the infinite perplexity of a model that quantization broke.
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{text(mean)} ± {f'{deviation:#.2g}'.rstrip('.') if deviation < 10 else f'{deviation:.0f}'}"
