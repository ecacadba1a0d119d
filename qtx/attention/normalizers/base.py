"""What every normalizer has, and the softmax-like ones share."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp

from qtx.attention.parameters import Parameters
from qtx.foundation.errors import QtxError
from qtx.masks import Mask


class Rows(NamedTuple):
    """What a normalizer is told of the rows of scores.

    Attributes:
      mask: which keys they see.
      step: training step, a traced scalar, for what anneals; None: fully trained.
      seen: of a block of the rows alone, how many keys each of them sees; None: the mask tells.
    """

    mask: Mask
    step: jax.Array | None = None
    seen: jax.Array | None = None

    def visible(self) -> jax.Array:
        """How many keys each row sees, float32, broadcasting to `[B, H, rows, 1]`."""
        return self.mask.visible() if self.seen is None else self.seen


def clipped(x: jax.Array) -> jax.Array:
    """clip(x, 0, 1), with slope 1 from end to end; `jnp.clip` halves it there, by divisions that every value pays."""
    return jnp.where(x < 0, 0.0, jnp.where(x > 1, 1.0, x))


class Normalizer(abc.ABC):
    """Attention scores to probabilities; a frozen dataclass of its options.

    A probability is in [0, 1], a masked key's exactly 0, and a row without a visible key is all 0. Rows may sum to less
    than 1.

    Attributes:
      length: T tokens that the model is trained at, if its options are relative to that: a number once training begins,
        whatever is computed later. None: they are not, or it has yet to be told (`trained_at`).
      warmup: the name of its option that says over how many training steps it grows, from a softmax at step 0, into
        what it is; None: it has none. By it a trained softmax model can become one with this normalizer (see
        `qtx.attention.conversion`). One with a warm-up also says what it is midway, by `grown_to`.

    Raises:
      QtxError: if the warm-up is of fewer than 0 steps.
    """

    length: ClassVar[int | None] = None
    warmup: ClassVar[str | None] = None

    def __post_init__(self):
        if self.warmup_steps < 0:
            raise QtxError(f"{self.warmup} is {self.warmup_steps}: expected 0 or more steps")

    @property
    def warmup_steps(self) -> int:
        """Of its warm-up; 0: it is what it is from the first step on."""
        return 0 if self.warmup is None else getattr(self, self.warmup)

    def with_warmup(self, steps: int) -> Self:
        """The same with another warm-up, if it has one."""
        options: Any = self
        return self if self.warmup is None else dataclasses.replace(options, **{self.warmup: steps})

    def trained_at(self, length: int) -> Self:
        """The same in a model that is trained at so many tokens: with that length, if it has yet to be told one."""
        return self

    def at(self, step: int) -> Self:
        """What it is at a training step, without a warm-up: itself when the warm-up is over."""
        return self if step >= self.warmup_steps else self.with_warmup(0).grown_to(step / self.warmup_steps)

    def grown_to(self, share: float) -> Self:
        """What it is when a share of its warm-up is over, by its other options.

        Raises:
          QtxError: if it does not say so, as one with a warm-up may.
        """
        raise QtxError(
            f"{type(self).__name__} does not say what it is within its warm-up: choose a checkpoint after "
            f"{self.warmup}, or give it `grown_to`"
        )

    def grown(self, rows: Rows) -> Any:
        """The share of the warm-up that is over: a scalar, linear in the step from 0 to 1."""
        if not self.warmup_steps or rows.step is None:
            return 1.0
        return jnp.minimum(rows.step / self.warmup_steps, 1.0)

    def parameters(self, num_heads: int) -> Parameters:
        """What it learns, by name, of one layer; they stay in floating point, and neither decay nor are quantized."""
        return {}

    @abc.abstractmethod
    def __call__(self, parameters: Mapping[str, jax.Array], scores: jax.Array, rows: Rows) -> jax.Array:
        """Probabilities `[B, H, T, T]`, float32, of scores `[B, H, T, T]`.

        Args:
          parameters: as `parameters` says, float32.
          scores: scaled; those of masked keys may be anything.
          rows: what each row sees.
        """

    def pytorch(self, own: str) -> str:
        """The same in PyTorch, fully trained, for a checkpoint that `transformers` loads (`qtx.interop.modeling`): the
        lines of a method `normalize(self, scores, visible)`.

        `scores` are `[B, HEADS, T, S]`, scaled, float32, and anything where a query does not see a key; `visible` is
        True where it does, and broadcasts to them. The lines may call `softmax(scores, visible)`, which is 0 where a
        key is not seen, as what they return must be. A class says its own: a base class's are not taken for it.

        Args:
          own: what the names of its parameters come after: `f"{own}.sinks"`.
        """
        raise NotImplementedError


class SoftmaxLike(Normalizer):
    """finish(exp(x_i) / (exp(empty) + sum_j exp(x_j))): a softmax over the visible keys and perhaps one more, which has
    no value, and then an elementwise function.

    By these two hooks alone one kernel can compute them all: a first pass for the logarithm of the sum of exponentials,
    a second for the sum of finish(p) v.
    """

    def empty(self, parameters: Mapping[str, jax.Array], rows: Rows) -> jax.Array | None:
        """The logit of an extra, empty key, `()` or `[H, 1, 1]`, perhaps -inf; None: there is none."""
        return None

    def finish(self, parameters: Mapping[str, jax.Array], probs: jax.Array, rows: Rows) -> jax.Array:
        """What becomes of the softmax `[B, H, T, T]`; 0 at masked keys, and must leave them so."""
        return probs

    def __call__(self, parameters, scores, rows):
        return self.finish(parameters, softmax(scores, rows.mask.dense(), self.empty(parameters, rows)), rows)


@dataclasses.dataclass(frozen=True)
class Softmax(SoftmaxLike):
    """The vanilla softmax."""

    def pytorch(self, own):
        return "return softmax(scores, visible)"


def softmax(scores: jax.Array, visible: jax.Array | None = None, empty: jax.Array | None = None) -> jax.Array:
    """softmax(scores) over the visible keys, in float32.

    Args:
      scores: `[..., T, S]`.
      visible: broadcasts to `scores`, True where the key is visible; None: all are.
      empty: the logit of one more key in every row, broadcasting to `[..., T, 1]`, whose probability is not returned.

    Returns:
      `[..., T, S]` float32: masked keys are exactly 0; a row without a visible key is all 0.
    """
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    if visible is None and empty is None:
        return jax.nn.softmax(scores, axis=-1)
    if visible is not None:
        scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
    largest = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    if empty is not None:
        largest = jnp.maximum(largest, jax.lax.stop_gradient(empty))
    weights = jnp.exp(scores - largest)
    if visible is not None:
        weights = jnp.where(visible, weights, 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    if empty is not None:
        total = total + jnp.exp(empty - largest)
    return weights / jnp.where(total == 0, 1.0, total)
