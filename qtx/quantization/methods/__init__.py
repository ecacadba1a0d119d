"""Post-training quantization methods, and lists of them. A new one is a file here and a line in `METHODS`."""

from __future__ import annotations

import dataclasses
import functools
import itertools

from qtx.foundation.config import registered_name
from qtx.foundation.errors import QtxError
from qtx.foundation.variants import make_variants
from qtx.quantization.basis import BASES
from qtx.quantization.earlier import method_of_this_version
from qtx.quantization.methods.awq import Awq
from qtx.quantization.methods.base import Method, Static
from qtx.quantization.methods.dynamic import Dynamic
from qtx.quantization.methods.gptq import Gptq
from qtx.quantization.methods.hadamard import Hadamard
from qtx.quantization.methods.per_token import PerToken
from qtx.quantization.methods.problem import Problem
from qtx.quantization.methods.quarot import Quarot
from qtx.quantization.methods.smoothquant import SmoothQuant

METHODS: dict[str, type[Method]] = {
    "static": Static,
    "per_token": PerToken,
    "dynamic": Dynamic,
    "smoothquant": SmoothQuant,
    "awq": Awq,
    "hadamard": Hadamard,
    "quarot": Quarot,
    "gptq": Gptq,
}


@dataclasses.dataclass(frozen=True)
class InTurn(Method):
    """Several methods, each of which is given what those before it have made.

    Attributes:
      steps: the methods, in the order of what they make (see `Method.makes`).

    Raises:
      QtxError: for methods that do not go together, or not in this order.
    """

    steps: tuple[Method, ...]

    def __post_init__(self):
        order = ("recipe", *BASES, "weights")
        for before, after in itertools.combinations(self.steps, 2):
            first, second = ([order.index(made) for made in step.makes] for step in (before, after))
            if first and second and max(first) < min(second):
                continue
            names = [registered_name(METHODS, type(step)) for step in (before, after)]
            if not first or not second:
                raise QtxError(f"method {names[bool(first)]} goes alone: leave it out of the list, or the others")
            if set(first) & set(second):
                raise QtxError(f"methods {names[0]} and {names[1]} do the same: leave one of them out")
            raise QtxError(f"method {names[1]} has to come before {names[0]}: write '{names[1]} + {names[0]}'")

    def adapt(self, recipe):
        return functools.reduce(lambda adapted, step: step.adapt(adapted), self.steps, recipe)

    def rewrite(self, module, params):
        return functools.reduce(lambda model, step: step.rewrite(*model), self.steps, (module, params))

    def find_bases(self, problem):
        return functools.reduce(lambda p, step: p.with_bases(step.find_bases(p)), self.steps, problem).bases

    def round_weights(self, problem):
        return self.steps[-1].round_weights(problem)


def make_method(text: str) -> Method:
    """Makes the method that a text names, or several in turn: "gptq,damping=0.02", "smoothquant,alpha=.6 + gptq".

    Raises:
      QtxError: for an unknown name or option, a bad value, or methods that do not go together.
    """
    first, *others = make_variants(METHODS, "method", method_of_this_version(text))
    return InTurn((first, *others)) if others else first


__all__ = [
    "METHODS",
    "Awq",
    "Dynamic",
    "Gptq",
    "Hadamard",
    "InTurn",
    "Method",
    "PerToken",
    "Problem",
    "Quarot",
    "SmoothQuant",
    "Static",
    "make_method",
]
