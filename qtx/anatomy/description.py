"""The description of a model: its stacks of layers, its parameters, its sites, and what its products multiply."""

from __future__ import annotations

import enum
import functools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.linen as nn

from qtx.anatomy.flow import Operands, operands
from qtx.parts import Part


class Stack(NamedTuple):
    """A scan over layers: everything below its path has a leading axis of its depth."""

    path: str
    depth: int

    def holds(self, path: str) -> bool:
        """Says whether a parameter or a site lies below the stack."""
        return path.startswith(f"{self.path}/")


def stack_of(stacks: Iterable[Stack], path: str) -> Stack | None:
    """Returns the one of some stacks that a path lies in; None: in none."""
    return next((stack for stack in stacks if stack.holds(path)), None)


class Role(enum.Enum):
    """A `Role` says what a parameter is for; the module that has the parameter tells."""

    KERNEL = "multiplies activations, as a matrix"
    GATE = "multiplies what a gate reads, head by head"
    TABLE = "is looked up"
    BIAS = "is added"
    SCALE = "scales a norm"
    NORMALIZER = "belongs to the normalizer of attention"
    PREFIX = "is a key or a value before every text"
    RANGE = "is learned of a quantizer's range"
    OTHER = "none of these"


class Parameter(NamedTuple):
    """One parameter of a model.

    Attributes:
      path: e.g. `"layers/mlp/out/kernel"`.
      shape: of one layer.
      stack: which has one for each layer; None: none, as the parameter lies in none, or all layers share it.
      axes: logical names of the dimensions of one layer (`qtx.axes`), None where it has none.
      role: what it is for.
      part: what its module computes.
    """

    path: str
    shape: tuple[int, ...]
    stack: Stack | None
    axes: tuple[str | None, ...]
    role: Role
    part: Part


class SiteInfo(NamedTuple):
    """One site of a model.

    Attributes:
      path: e.g. `"layers/mlp/out"`.
      part: what it holds.
      features: the size of its last axis.
      stack: which it lies in; None: in none.
    """

    path: str
    part: Part
    features: int
    stack: Stack | None

    @property
    def leading(self) -> tuple[int, ...]:
        """Returns the leading axes of the site's variables: the depth of its stack, or none."""
        return () if self.stack is None else (self.stack.depth,)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """An `Anatomy` says what a model is made of; see `qtx.anatomy.read`.

    Attributes:
      stacks: its scans over layers.
      parameters, sites: by path.
    """

    stacks: tuple[Stack, ...]
    parameters: Mapping[str, Parameter]
    sites: Mapping[str, SiteInfo]
    _traced: tuple[nn.Module, Any, Any] = field(repr=False)

    def stack_of(self, path: str) -> Stack | None:
        """Returns the stack by whose layers a parameter, a site, or anything below a site is stacked; None: by none."""
        parameter = self.parameters.get(path)
        return stack_of(self.stacks, path) if parameter is None else parameter.stack

    def sharing(self, path: str) -> int:
        """Counts the layers that share a parameter: 0 if it is in no stack, or each layer has its own."""
        parameter, stack = self.parameters.get(path), stack_of(self.stacks, path)
        return 0 if parameter is None or stack is None or parameter.stack is not None else stack.depth

    def leading(self, path: str) -> tuple[int, ...]:
        """Returns the leading axes of a parameter, or of a site's variables: the depth of its stack, or none."""
        stack = self.stack_of(path)
        return () if stack is None else (stack.depth,)

    @functools.cached_property
    def operands(self) -> Operands:
        """Returns what each matrix product multiplies."""
        return operands(*self._traced)

    def sites_of(self, parts: Collection[Part]) -> list[SiteInfo]:
        """Returns the sites that hold one of some parts."""
        return [site for site in self.sites.values() if site.part in parts]

    def kernel_of(self, layer: str) -> Parameter | None:
        """Returns the kernel of a dense layer; None: it has none."""
        return self.parameters.get(f"{layer}/kernel")
