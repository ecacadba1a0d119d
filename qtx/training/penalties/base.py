"""The base class of penalties, with the options that all have: sites, weight, and annealing."""

from __future__ import annotations

import abc
import dataclasses
from typing import Annotated

import jax

from qtx.foundation.errors import QtxError
from qtx.foundation.limits import Checked, at_least, within

FINITE = within("[0, inf)", "0 or more, and finite")


@dataclasses.dataclass(frozen=True)
class Penalty(Checked, abc.ABC):
    """A term of the training loss: weight times the mean, over real tokens, layers and sites, of a number that is
    computed from each token's values.

    An option with a partner `<option>_start` anneals linearly from the partner's value to its own over the first
    `anneal_steps` updates, and stays there.

    Attributes:
      sites: paths or patterns (`layers/mlp*`) of tensors with a value per token and feature, joined by "+"; every layer
        of every site counts the same in the mean.
      weight: the factor in the loss; 0 only logs the penalty.
      weight_start: the weight before the first update; None: `weight` from the start.
      anneal_steps: the number of updates that annealing takes.

    Raises:
      QtxError: for a value out of its range, or an annealing without its start or its length.
    """

    sites: str = "layers/mlp/out"
    weight: Annotated[float, FINITE] = 0.01
    weight_start: Annotated[float | None, FINITE] = None
    anneal_steps: Annotated[int, at_least(0)] = 0

    def __post_init__(self):
        super().__post_init__()
        if not all(self.patterns):
            raise QtxError(f"sites is {self.sites!r}: expected paths joined by '+', e.g. layers/mlp/out")
        starts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name.endswith("_start")}
        if (self.anneal_steps > 0) != any(start is not None for start in starts.values()):
            given = ", ".join(
                f"{name}={value}" for name, value in {"anneal_steps": self.anneal_steps, **starts}.items()
            )
            raise QtxError(
                f"{given}: annealing takes both its steps and a start, e.g. anneal_steps=1000,weight_start=0"
            )

    @property
    def patterns(self) -> tuple[str, ...]:
        """Returns the parts of `sites`."""
        return tuple(part.strip() for part in self.sites.split("+"))

    def annealed(self, option: str, step: jax.Array) -> jax.Array | float:
        """Returns the value of an option after `step` updates."""
        start, end = getattr(self, f"{option}_start"), getattr(self, option)
        if start is None:
            return end
        return start + (end - start) * (step / self.anneal_steps).clip(max=1.0)

    @abc.abstractmethod
    def __call__(self, x: jax.Array, step: jax.Array) -> jax.Array:
        """Returns what each token is penalized by, `[..., D]` -> `[...]`.

        Args:
          x: the values of a site, float32.
          step: updates done, a traced scalar, for annealed options.
        """
