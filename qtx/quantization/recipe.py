"""Recipes: which weights and activations are quantized, and how: rules from paths to quantizers, first match wins."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable

from qtx.foundation.errors import QtxError
from qtx.quantization.estimators import Estimator
from qtx.quantization.granularity import Granularity, Tensor, Token


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """How one tensor is quantized.

    Attributes:
      bits: 2 to 16.
      symmetric: zero-point fixed at 0.
      estimator: of the range, from `qtx.quantization.estimators`.
      granularity: which values share a range, from `qtx.quantization.granularity`.
      count_padding: estimate from all values of an activation, those of padding and of keys that a query does not see
        too, as the paper's official code does; otherwise from those that count (`qtx.masks.counted`).

    Raises:
      QtxError: if bits is not in 2..16.
    """

    bits: int
    symmetric: bool
    estimator: Estimator
    granularity: Granularity | Token = Tensor()
    count_padding: bool = False

    def __post_init__(self):
        if not 2 <= self.bits <= 16:
            raise QtxError(f"bits is {self.bits}: expected 2 to 16")


@dataclasses.dataclass(frozen=True)
class Rule:
    """Paths that match `pattern` (shell-style: `*` matches anything, `/` too) get `quantizer`; None: left as is.

    Attributes:
      pattern, quantizer: see above.
      optional: whether a model may have no such path. Otherwise that is an error, as of a misspelt pattern.
    """

    pattern: str
    quantizer: Quantizer | None
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Rules for parameter paths (`layers/mlp/out/kernel`) and for activation sites (`layers/mlp/out`).

    An embedding table is quantized at its look-ups, so a head tied to the table keeps the unquantized one, as in the
    paper's code.
    """

    weights: tuple[Rule, ...]
    activations: tuple[Rule, ...]


def resolve(rules: Iterable[Rule], names: Iterable[str], kind: str) -> dict[str, Quantizer]:
    """Name to quantizer for every name that a rule quantizes.

    Raises:
      QtxError: for a name that no rule matches, or a rule, not optional, that matches no name.
    """
    rules, result, used = tuple(rules), {}, set()
    names = sorted(names)
    for name in names:
        rule = next((rule for rule in rules if fnmatch.fnmatchcase(name, rule.pattern)), None)
        if rule is None:
            raise QtxError(
                f"no {kind} rule of the recipe matches {name!r}: add one, with quantizer None to leave it as is"
            )
        used.add(rule)
        if rule.quantizer is not None:
            result[name] = rule.quantizer
    for rule in rules:
        if rule not in used and not rule.optional:
            raise QtxError(f"the recipe's {kind} rule {rule.pattern!r} matches none of: {', '.join(names)}")
    return result
