"""One of each kind of thing that has a registry, as a user of qtx would write it in a file of their own."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
from pathlib import Path

import jax
import optax

from qtx.quantization.estimators import RunningMinMax
from qtx.quantization.granularity import Tensor
from qtx.quantization.methods import Static
from qtx.quantization.plan import settled
from qtx.quantization.recipe import Recipe, Rule
from qtx.quantization.recipes import RECIPES
from qtx.quantization.weights import quantize_weights

ROOT = Path(__file__).parents[1]


def documented(page):
    """Name to class of every Python file of a page of the documentation, run as it stands there."""
    found, text = {}, (ROOT / "docs" / page).read_text(encoding="utf-8")
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL)):
        module = types.ModuleType(f"documented_{number}")
        sys.modules[module.__name__] = module  # where dataclasses look for it
        exec(code, vars(module))
        found |= {name: x for name, x in vars(module).items() if getattr(x, "__module__", None) == module.__name__}
    return found


@dataclasses.dataclass(frozen=True)
class Shrunk(Static):
    """Rounds the weights times a factor."""

    factor: float = 1.0

    def round_weights(self, problem):
        shrunk = jax.tree.map(lambda x: self.factor * x, problem.params)
        return quantize_weights(settled(problem.plan), shrunk, problem.ranges)


@dataclasses.dataclass(frozen=True)
class Widened(RunningMinMax):
    """Running ends, a factor further out."""

    factor: float = 1.5

    def result(self, state):
        return tuple(self.factor * end for end in super().result(state))


@dataclasses.dataclass(frozen=True)
class Whole(Tensor):
    """A range of the whole tensor, by another name."""


def careful(config, weight, activation):
    """The paper's recipe, with the residual sums in floating point."""
    recipe = RECIPES["paper_opt"](config, weight, activation)
    return Recipe(recipe.weights, (Rule("layers/*_residual", None), *recipe.activations))


def signs(h):
    """The sign of the momentum, with decoupled decay."""
    return h.descent(optax.trace(h.beta1), optax.scale_by_sign())


def root(peak, final, steps):
    """`peak` to `final`, fast first."""
    return lambda count: peak + (final - peak) * (count / steps) ** 0.5
