"""What every penalty has: the sites that it looks at, its weight, and what anneals."""

from __future__ import annotations

import abc
import dataclasses
import math

import jax

from qtx.foundation.errors import QtxError


@dataclasses.dataclass(frozen=True)
class Penalty(abc.ABC):
    """A term of the training loss: weight times the mean, over the real tokens, the layers and the sites, of what a
    token's values give.

    An option with a partner `<option>_start` anneals linearly from that to its own value over the first `anneal_steps`
    updates, and stays there.

    Attributes:
      sites: paths or patterns (`layers/mlp*`) of tensors with a value per token and feature, joined by "+"; in one mean
        every layer of every one of them counts the same.
      weight: the factor in the loss; 0 only logs the penalty.
      weight_start: None: `weight` from the start.
      anneal_steps: updates.

    Raises:
      QtxError: for a value out of its range, or an annealing without its start or its length.
    """

    sites: str = "layers/mlp/out"
    weight: float = 0.01
    weight_start: float | None = None
    anneal_steps: int = 0

    def __post_init__(self):
        for name in ("weight", "weight_start"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise QtxError(f"{name} is {value}: expected a finite number, 0 or more")
        if self.anneal_steps < 0:
            raise QtxError(f"anneal_steps is {self.anneal_steps}: expected 0 or more")
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
        """The parts of `sites`."""
        return tuple(part.strip() for part in self.sites.split("+"))

    def annealed(self, option: str, step: jax.Array) -> jax.Array | float:
        """The value of an option after `step` updates."""
        start, end = getattr(self, f"{option}_start"), getattr(self, option)
        if start is None:
            return end
        return start + (end - start) * (step / self.anneal_steps).clip(max=1.0)

    @abc.abstractmethod
    def __call__(self, x: jax.Array, step: jax.Array) -> jax.Array:
        """Of tokens `[..., D]`, float32, what each of them is penalized by, `[...]`.

        Args:
          x: the values of a site.
          step: updates done, a traced scalar, for what anneals.
        """
