"""The base class of all normalizers, and that of the softmax-like ones."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp

from qtx.attention.parameters import Parameters
from qtx.foundation.errors import QtxError
from qtx.foundation.limits import Checked
from qtx.masks import Mask


class Rows(NamedTuple):
    """`Rows` tells a normalizer about the rows of scores.

    Attributes:
      mask: which keys the rows see.
      step: the training step, a traced scalar, for normalizers that anneal; None: fully trained.
      seen: how many keys each row sees, if the rows are only a block of those of `mask`; None: the mask tells.
      bias: what is added to the scaled scores before they are the normalizer's, broadcasting to `[B, H, T, S]`.
    """

    mask: Mask
    step: jax.Array | None = None
    seen: jax.Array | None = None
    bias: jax.Array | None = None

    def within(self, window: Any) -> Rows:
        """Returns the rows where these see only keys fewer than `window` positions away; see `qtx.masks.Mask`."""
        return self._replace(mask=dataclasses.replace(self.mask, window=window))

    def visible(self) -> jax.Array:
        """Returns how many keys each row sees, float32, broadcasting to `[B, H, rows, 1]`."""
        return self.mask.visible() if self.seen is None else self.seen


def clipped(x: jax.Array) -> jax.Array:
    """Clips x to [0, 1] with slope 1 up to the ends; `jnp.clip` halves it there, by divisions that all values pay."""
    return jnp.where(x < 0, 0.0, jnp.where(x > 1, 1.0, x))


class Normalizer(Checked, abc.ABC):
    """A normalizer turns attention scores into probabilities; it is a frozen dataclass of its options.

    A probability is 0 or more, a masked key's exactly 0, and a row without a visible key is all 0. Rows need not sum to
    1.

    Attributes:
      largest: what no probability exceeds.
      length: the T tokens that the model is trained at, if the options are relative to T: fixed once training begins,
        whatever is computed later. None: they are not, or T is not known yet (`trained_at`).
      warmup: the name of the option that says over how many training steps the normalizer grows from a softmax at step
        0 into itself, an option of 0 or more; None: it has no warm-up. A warm-up lets a trained softmax model become
        one with this normalizer (see `qtx.attention.conversion`), and `grown_to` says what the normalizer is midway.
    """

    largest: ClassVar[float] = 1.0
    length: ClassVar[int | None] = None
    warmup: ClassVar[str | None] = None

    @property
    def warmup_steps(self) -> int:
        """Returns the steps of the warm-up; 0: the normalizer is itself from the first step on."""
        return 0 if self.warmup is None else getattr(self, self.warmup)

    def with_warmup(self, steps: int) -> Self:
        """Returns the normalizer with another number of warm-up steps, if it has a warm-up."""
        options: Any = self
        return self if self.warmup is None else dataclasses.replace(options, **{self.warmup: steps})

    def trained_at(self, length: int) -> Self:
        """Returns the normalizer in a model that is trained at `length` tokens: with this length, if it needs one."""
        return self

    def at(self, step: int) -> Self:
        """Returns what the normalizer is at a training step, without a warm-up: itself when the warm-up is over."""
        return self if step >= self.warmup_steps else self.with_warmup(0).grown_to(step / self.warmup_steps)

    def grown_to(self, share: float) -> Self:
        """Returns what the normalizer is when a share of its warm-up is over, by its other options.

        Raises:
          QtxError: if the class does not say so.
        """
        raise QtxError(
            f"{type(self).__name__} does not say what it is within its warm-up: choose a checkpoint after "
            f"{self.warmup}, or give it `grown_to`"
        )

    def grown(self, rows: Rows) -> Any:
        """Returns the share of the warm-up that is over: a scalar, linear in the step from 0 to 1."""
        if not self.warmup_steps or rows.step is None:
            return 1.0
        return jnp.minimum(rows.step / self.warmup_steps, 1.0)

    def parameters(self, num_heads: int) -> Parameters:
        """Describes the parameters of one layer, by name: in floating point, never decayed and never quantized."""
        return {}

    @abc.abstractmethod
    def __call__(self, parameters: Mapping[str, jax.Array], scores: jax.Array, rows: Rows) -> jax.Array:
        """Computes probabilities `[B, H, T, S]`, float32, from scores `[B, H, T, S]`.

        Args:
          parameters: the arrays that `parameters` describes, float32.
          scores: scaled scores; those of masked keys may be anything.
          rows: what each row sees.
        """

    def pytorch(self, own: str) -> str:
        """Writes the fully trained normalizer in PyTorch, for a checkpoint that `transformers` loads
        (`qtx.interop.modeling`): the lines of a method `normalize(self, scores, visible)`.

        `scores` `[B, HEADS, T, S]` are scaled, float32, and anything where a query does not see a key; `visible`
        broadcasts to them, and is True where a query does. The lines may call `softmax(scores, visible)`, which is 0
        where a key is not seen, as the result must be. Each class writes its own lines: a base class's do not count.

        Args:
          own: the prefix of the names of the normalizer's parameters: `f"{own}.sinks"`.
        """
        raise NotImplementedError


class SoftmaxLike(Normalizer):
    """A softmax over the visible keys and perhaps one more, which has no value, and then an elementwise function:
    finish(exp(x_i) / (exp(empty) + sum_j exp(x_j))).

    One kernel can compute all such normalizers by the hooks `empty` and `finish` alone: a first pass for the logarithm
    of the sum of exponentials, a second for the sum of finish(p) v.
    """

    def empty(self, parameters: Mapping[str, jax.Array], rows: Rows) -> jax.Array | None:
        """Returns the logit of an extra, empty key, `()` or `[H, 1, 1]`, perhaps -inf; None: there is no such key."""
        return None

    def finish(self, parameters: Mapping[str, jax.Array], probs: jax.Array, rows: Rows) -> jax.Array:
        """Returns the probabilities made of the softmax `[B, H, T, S]`, which is 0 at masked keys and must stay so."""
        return probs

    def __call__(self, parameters, scores, rows):
        return self.finish(parameters, softmax(scores, rows.mask.dense(), self.empty(parameters, rows)), rows)


@dataclasses.dataclass(frozen=True)
class Softmax(SoftmaxLike):
    """The vanilla softmax."""

    def pytorch(self, own):
        return "return softmax(scores, visible)"


def over_visible(scores: jax.Array, rows: Rows) -> tuple[jax.Array, jax.Array | None]:
    """Returns scores in float32, 0 at masked keys, and where keys are visible; None: all are."""
    scores, visible = scores.astype(jnp.promote_types(scores.dtype, jnp.float32)), rows.mask.dense()
    return only_visible(scores, visible), visible


def only_visible(x: jax.Array, visible: jax.Array | None) -> jax.Array:
    """Returns `x` `[B, H, T, S]`, 0 where a key is not visible; None: all are."""
    return x if visible is None else jnp.where(visible, x, 0.0)


def softmax(scores: jax.Array, visible: jax.Array | None = None, empty: jax.Array | None = None) -> jax.Array:
    """Computes softmax(scores) over the visible keys, in float32.

    Args:
      scores: `[..., T, S]`.
      visible: broadcasts to `scores`, True where the key is visible; None: all keys are.
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
