"""Recipes say which weights and activations are quantized, and how: rules for paths, of which the first match wins."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Annotated

import numpy as np

from qtx.anatomy import Parameter, SiteInfo
from qtx.foundation.errors import QtxError
from qtx.foundation.limits import Checked, Limit, within
from qtx.parts import Part
from qtx.quantization.estimators import Estimator
from qtx.quantization.granularity import Granularity, Tensor, Token

MOST_BITS = 16
FLOAT = "float"
"""The bits, in words, of what is left in floating point."""


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

    bits: Annotated[int, within(f"[2, {MOST_BITS}]")]
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


BITS_OR_NONE = Limit(
    lambda bits: bits == 0 or 2 <= bits <= MOST_BITS,
    lambda name, bits: QtxError(f"{name} of an exempt tensor are {bits}: expected 2 to {MOST_BITS}, or {FLOAT}"),
)


@dataclasses.dataclass(frozen=True)
class Exempt(Checked):
    """An `Exempt` tensor has other bits than its rule says.

    Attributes:
      path: of a parameter or a site, exactly.
      layer: its layer, from 0; None: all layers, or the tensor lies outside of them.
      bits: 2 to 16; 0: it is left in floating point.
    """

    path: str
    layer: int | None
    bits: Annotated[int, BITS_OR_NONE]

    @property
    def name(self) -> str:
        """Returns the tensor's name, e.g. `layers/mlp/out[5]`."""
        return self.path if self.layer is None else f"{self.path}[{self.layer}]"

    def __str__(self) -> str:
        return f"{self.name}={self.bits or FLOAT}"


def read_exempt(text: str) -> Exempt:
    """Reads an exempt tensor as `str` writes it: "layers/mlp/out[5]=float", "layers/mlp/out/kernel=16".

    Raises:
      QtxError: if it is written otherwise.
    """
    match = re.fullmatch(rf"([^=\[\]]+)(?:\[(\d+)\])?=(\d+|{FLOAT})", text, re.ASCII)
    if match is None:
        raise QtxError(f"exempt tensor {text!r}: expected TENSOR[LAYER]=BITS, e.g. 'layers/mlp/out[5]=float'")
    path, layer, bits = match.groups()
    return Exempt(path, None if layer is None else int(layer), 0 if bits == FLOAT else int(bits))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Rules for parameter paths (`layers/mlp/out/kernel`) and for activation sites (`layers/mlp/out`).

    An embedding table is quantized at its look-ups, so a head tied to the table multiplies by the unquantized table, as
    in the paper's code.

    Attributes:
      weights, activations: the rules, of which the first that means a tensor holds.
      exempt: tensors that a rule quantizes, to other bits.
    """

    weights: tuple[Rule, ...]
    activations: tuple[Rule, ...]
    exempt: tuple[Exempt, ...] = ()

    def bits(self, path: str, bits: int, leading: tuple[int, ...]) -> np.ndarray:
        """Returns the bits of a tensor to which a rule gives `bits`: float32, of the leading (layer) shape."""
        found = np.full(leading, bits, np.float32)
        for exempt in self.exempt:
            if exempt.path == path:
                found[... if exempt.layer is None else exempt.layer] = exempt.bits
        return found


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


def check_exempt(recipe: Recipe, quantized: Mapping[str, tuple[int, ...]]) -> None:
    """Raises QtxError if an exempt tensor is none of those that are `quantized`, which are paths with the leading
    (layer) shape of each, or if one is named twice."""
    tensors = {path: [f"{path}[{i}]" for i in range(sum(leading))] for path, leading in quantized.items()}
    known = {name: [name] for of_layers in tensors.values() for name in of_layers}
    known |= {path: of_layers or [path] for path, of_layers in tensors.items()}
    seen: set[str] = set()
    for exempt in recipe.exempt:
        if exempt.name not in known:
            nearest = difflib.get_close_matches(exempt.name, known, n=1, cutoff=0.9)
            raise QtxError(
                f"the recipe quantizes no {exempt.name!r}, which is exempt: "
                + (f"did you mean {nearest[0]!r}? " if nearest else "")
                + 'qtx sensitivity lists what it quantizes; --config.quantization.exempt="()" leaves nothing out'
            )
        if twice := sorted(seen.intersection(known[exempt.name])):
            raise QtxError(f"{twice[0]!r} is exempt twice: name each tensor once")
        seen.update(known[exempt.name])
