"""This module tells of a mixed precision: a sentence, and a table of the tensors that are left at more bits."""

from __future__ import annotations

from qtx.analysis.mixed import Mixed
from qtx.analysis.prices import Price
from qtx.foundation.numbers import told_apart
from qtx.quantization.recipe import FLOAT


def mixed_table(found: Mixed) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows: the exempt tensors, and what each costs alone."""
    rows = [
        [exempt.name, str(exempt.bits or FLOAT), percent(price), f"{price.bytes / 1e6:.2f}"]
        for exempt, price in zip(found.exempt, found.each, strict=True)
    ]
    return ["tensor", "bits", "products off integers", "MB more"], rows


def mixed_sentence(found: Mixed) -> str:
    """Says what was reached, and what it costs."""
    reached = f"{found.metric} {told_apart(found.reached, 4, 'g')} of the {found.target:.4g} that was asked for"
    if not found.exempt:
        return f"{found.scheme}: {reached}, with every tensor quantized"
    before, after = found.price.of_bytes / 1e6, (found.price.of_bytes + found.price.bytes) / 1e6
    return (
        f"{found.scheme}: {reached}, with {len(found.exempt)} of {found.of} tensors exempt: {percent(found.price)} of "
        f"the products leave the integers, and the weights take {after:.2f} MB instead of {before:.2f}"
    )


def percent(price: Price) -> str:
    """Formats the share of the products that leave the integers."""
    return f"{100 * price.products:.1f} %"
