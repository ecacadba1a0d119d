"""Recipes say which weights and activations are quantized, and how: rules for paths, of which the first match wins."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping
from typing import Annotated

from qtx.anatomy import Parameter, SiteInfo
from qtx.foundation.errors import QtxError
from qtx.foundation.limits import Checked, within
from qtx.parts import Part
from qtx.quantization.estimators import Estimator
from qtx.quantization.granularity import Granularity, Tensor, Token


@dataclasses.dataclass(frozen=True)
class Quantizer(Checked):
    """A `Quantizer` says how one tensor is quantized.

    Attributes:
      bits: 2 to 16.
      symmetric: whether the zero-point is fixed at 0.
      estimator: estimates the range, from `qtx.quantization.estimators`.
      granularity: which values share a range, from `qtx.quantization.granularity`.
      count_padding: whether all values of an activation make its range, also those of padding and of keys that a query
        does not see, as in the paper's official code; otherwise, only those that count (`qtx.masks.counted`) do.
    """

    bits: Annotated[int, within("[2, 16]")]
    symmetric: bool
    estimator: Estimator
    granularity: Granularity | Token = Tensor()
    count_padding: bool = False


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule gives all tensors that it means one quantizer, or leaves them as they are.

    Attributes:
      pattern: the tensors' paths, shell-style: `*` matches anything, `/` too; or the part that they are, or that they
        are parameters of, whatever their paths.
      quantizer: for these tensors; None: they are left as they are.
      optional: whether a model may have no such tensor. Otherwise this is an error, as with a misspelt pattern.
    """

    pattern: str | Part
    quantizer: Quantizer | None
    optional: bool = False

    def means(self, tensor: Parameter | SiteInfo) -> bool:
        """Says whether the rule is for a tensor."""
        if isinstance(self.pattern, Part):
            return tensor.part is self.pattern
        return fnmatch.fnmatchcase(tensor.path, self.pattern)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Rules for parameter paths (`layers/mlp/out/kernel`) and for activation sites (`layers/mlp/out`).

    An embedding table is quantized at its look-ups, so a head tied to the table multiplies by the unquantized table, as
    in the paper's code.
    """

    weights: tuple[Rule, ...]
    activations: tuple[Rule, ...]


def resolve(rules: Iterable[Rule], tensors: Mapping[str, Parameter | SiteInfo], kind: str) -> dict[str, Quantizer]:
    """Returns the quantizer of every tensor that a rule quantizes, by path.

    Raises:
      QtxError: for a tensor that no rule means, or a rule that means no tensor and is not optional.
    """
    rules, result, used = tuple(rules), {}, set()
    for name, tensor in sorted(tensors.items()):
        rule = next((rule for rule in rules if rule.means(tensor)), None)
        if rule is None:
            raise QtxError(
                f"no {kind} rule of the recipe matches {name!r}: add one, with quantizer None to leave it as is"
            )
        used.add(rule)
        if rule.quantizer is not None:
            result[name] = rule.quantizer
    for rule in rules:
        if rule not in used and not rule.optional:
            raise QtxError(f"the recipe's {kind} rule {rule.pattern!r} matches none of: {', '.join(sorted(tensors))}")
    return result
