"""Training with quantization noise: a model learns to bear what quantization after training will do to it.

Half of the examples of every batch are computed on quantized weights and activations, the other half as the model is.
Quant-Noise (Fan et al. 2021, arXiv 2004.07320) rounds a random part of the weights; here an example is rounded
everywhere or nowhere, so that both the quantized and the unquantized model are trained. Training leaves nothing else
behind: the run's model is an ordinary one, to be quantized by any tool.

Nothing is calibrated and nothing is learned besides the weights. The range of a tensor x is that of its values in a
batch, [min x, max x], and the gradient goes on into these ends: by LSQ's equation 3, with v = x / s and n steps of
size s = (max x - min x) / n,

    d x_hat / d max x = (round(v) - v) / n,    summed over all values of x

so that the largest values are drawn in by just as much as their range costs the loss: a penalty on outliers that needs
neither weight nor threshold nor a list of sites.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from qtx.anatomy import Parameter, read
from qtx.foundation.batch import Batch
from qtx.models.vocabulary import Factors
from qtx.quantization import float32_only
from qtx.quantization.affine import tiled
from qtx.quantization.calibration import tables_of
from qtx.quantization.estimators import MinMax
from qtx.quantization.granularity import Token
from qtx.quantization.interceptor import counted
from qtx.quantization.plan import Planned, flatten, is_table, make_plan, quantizers_of
from qtx.quantization.qat.learned_step import fake_quantize_between
from qtx.quantization.recipe import Quantizer, Recipe
from qtx.sites import SITES_AND_TABLES, on_sites


class Noise(NamedTuple):
    """`Noise` says how a tensor is quantized, to how many bits, and whether it has a leading layer axis."""

    planned: Planned
    bits: int
    stacked: bool = False


Ends = tuple[jax.Array, jax.Array]
Look = tuple[Noise, Ends]


@dataclasses.dataclass(frozen=True)
class NoisyModel:
    """A model that computes half of every training batch quantized; see `make_noisy_model`.

    Attributes:
      module: the model; the noisy model has the same parameters.
      weights, activations: what is quantized, and how.
      stacks: paths of the model's scans over layers.
      begins: the updates before the noise begins.
      limit: of the norm of the quantized half's gradient; None: there is none.
    """

    module: nn.Module
    weights: tuple[Noise, ...]
    activations: tuple[Noise, ...]
    stacks: tuple[str, ...]
    begins: int = 0
    limit: float | None = None

    @property
    def config(self) -> Any:
        """Returns the module's config."""
        module: Any = self.module
        return module.config

    def init(self, *args: Any, **options: Any) -> Any:
        """Returns what the module's `init` does."""
        return self.module.init(*args, **options)

    def described(self, batch: Batch) -> Mapping[str, Parameter]:
        """Returns what is known of each parameter, by path."""
        return read(self.module, batch).parameters

    def apply(self, variables: Any, batch: Batch, *, train: bool = False, **options: Any) -> Any:
        """Returns what the module's `apply` does; if `train`, examples 0, 2, 4 ... of an even number are quantized."""
        if not train:
            return self.module.apply(variables, batch, **options)
        rngs = options.pop("rngs", {})
        rounded, as_is = ({name: values[first::2] for name, values in batch.items()} for first in (0, 1))
        begun = None if not self.begins or options.get("step") is None else options["step"] >= self.begins
        weights, tables = self._rounded(limited_gradient(variables["params"], self.limit), begun)
        with rounding_sites(self.activations, tables, self.module, rounded, begun):
            there = float32_only.apply(self.module, {"params": weights}, rounded, train=True, rngs=rngs, **options)
        rngs = {name: jax.random.fold_in(key, 1) for name, key in rngs.items()}
        here = self.module.apply(variables, as_is, train=True, rngs=rngs, **options)
        return jax.tree_util.tree_map_with_path(
            functools.partial(_interleaved, self.stacks), there, here, is_leaf=lambda x: isinstance(x, Factors)
        )

    def _rounded(self, params: Any, begun: jax.Array | None) -> tuple[Any, dict[str, Look]]:
        """Returns the weights, rounded if noise has begun, and how the look-ups of tables are rounded, by path."""
        flat, tables = dict(flatten(params)), {}
        for noise in self.weights:
            path = noise.planned.path
            if is_table(path):
                (look_up,) = tables_of((noise.planned,))
                tables[look_up.path] = noise, own_ends(flat[path], noise)
            else:
                rounding = functools.partial(round_to_own_ends, noise=noise)
                flat[path] = _once(begun, (jax.vmap(rounding) if noise.stacked else rounding)(flat[path]), flat[path])
        return traverse_util.unflatten_dict(flat, sep="/"), tables


@contextlib.contextmanager
def rounding_sites(
    activations: Iterable[Noise],
    tables: Mapping[str, Look],
    module: nn.Module,
    batch: Batch,
    begun: jax.Array | None = None,
) -> Iterator[None]:
    """Rounds sites to the grids of their own values, and look-ups to the grids of their tables, within the context. The
    module sees `batch` there, whose padding does not count. A scalar `begun` that is False leaves all as it is."""
    by_path = {noise.planned.path: noise for noise in activations}

    def quantize(site, path, y, mask):
        if path in tables:
            noise, (minimum, maximum) = tables[path]
            return _once(begun, fake_quantize_between(y, minimum, maximum, noise.bits, noise.planned.symmetric), y)
        counts = counted(by_path[path].planned, site, y, module, batch, mask)
        return _once(begun, round_to_own_ends(y, by_path[path], counts), y)

    with on_sites(quantize, by_path.keys() | tables.keys(), SITES_AND_TABLES):
        yield


def _once(begun: jax.Array | None, rounded: jax.Array, x: jax.Array) -> jax.Array:
    return rounded if begun is None else jnp.where(begun, rounded, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def limited_gradient(params: Any, limit: float | None) -> Any:
    """Returns parameters as they are, through which a gradient goes whose norm over all of them is at most `limit`."""
    return params


def _within_limit(limit: float | None, _: None, gradient: Any) -> tuple[Any]:
    if limit is None:
        return (gradient,)
    # The squares of a gradient of 1e20 are none of float32's numbers.
    largest = jnp.stack([jnp.abs(x).max() for x in jax.tree.leaves(gradient)]).max()
    divided = jax.tree.map(lambda x: x / jnp.where(largest > 0, largest, 1.0), gradient)
    factor = jnp.minimum(largest, limit / jnp.maximum(optax.tree.norm(divided), 1.0))
    return (jax.tree.map(lambda x: factor * x, divided),)


limited_gradient.defvjp(lambda params, limit: (params, None), _within_limit)


def picked(x: jax.Array, where: jax.Array | None = None) -> Ends:
    """Returns what `extremes` does, found by place. The gradient of `min` and `max` would go to all values equal to
    them: to none if the compiler computes `x` again for this comparison, with another order of roundings."""
    rows = x.astype(jnp.float32).reshape(-1, x.shape[-1])
    if where is None:
        return _picked(rows, jnp.min, jnp.argmin), _picked(rows, jnp.max, jnp.argmax)
    counts = jnp.broadcast_to(where, x.shape).reshape(rows.shape)
    low = _picked(jnp.where(counts, rows, jnp.inf), jnp.min, jnp.argmin)
    high = _picked(jnp.where(counts, rows, -jnp.inf), jnp.max, jnp.argmax)
    some = counts.any()
    return jnp.where(some, low, 0.0), jnp.where(some, high, 0.0)


def _picked(rows: jax.Array, end: Callable[..., jax.Array], place: Callable[..., jax.Array]) -> jax.Array:
    """Returns the end of `[N, D]`, the first of equal ones: of the row that has it, for a processor finds the place of
    an end value by value, and the ends of rows many values at a time, 20 times as fast."""
    row = rows[place(end(rows, axis=1))]
    return row[place(row)]


@dataclasses.dataclass(frozen=True)
class Picked(MinMax):
    """The `MinMax` estimator, with a gradient that goes to the places of the ends."""

    def update(self, state, x, bits, symmetric, where=None):
        minimum, maximum = picked(x, where)
        return {"minimum": minimum, "maximum": maximum}


def round_to_own_ends(x: jax.Array, noise: Noise, where: jax.Array | None = None) -> jax.Array:
    """Rounds one layer's `x` to the grid between the ends of its values that count, with the ends' gradient too."""
    return fake_quantize_between(x, *own_ends(x, noise, where), noise.bits, noise.planned.symmetric)


def own_ends(x: jax.Array, noise: Noise, where: jax.Array | None = None) -> Ends:
    """Returns the ends of each range in one layer's `x` `[..., D]`; each broadcasts to `x`."""
    granularity, estimator = noise.planned.granularity, Picked()
    if isinstance(granularity, Token):
        where = jnp.ones(x.shape, bool) if where is None else jnp.broadcast_to(where, x.shape)
        ends = jnp.vectorize(picked, signature="(d),(d)->(),()")(x, where)
        return jnp.minimum(ends[0], 0.0)[..., None], jnp.maximum(ends[1], 0.0)[..., None]
    state = granularity.init(estimator, x.shape)
    state = granularity.update(estimator, state, x, noise.bits, noise.planned.symmetric, where)
    minimum, maximum = granularity.result(estimator, state)
    return tiled(minimum, x.shape), tiled(maximum, x.shape)


def make_noisy_model(
    module: nn.Module, recipe: Recipe, batch: Batch, begins: int = 0, limit: float | None = None
) -> NoisyModel:
    """Makes a model to be trained with the noise of a recipe.

    Args:
      module: the model.
      recipe: what to quantize, to how many bits, and which values share a range; its estimators have no say.
      batch: gives shapes only.
      begins, limit: as `QatConfig` has them, `noise_from` and `noise_limit`.

    Raises:
      QtxError: if the recipe does not fit the model.
    """
    anatomy = read(module, batch)

    def noise(quantizers: dict[str, Quantizer]) -> tuple[Noise, ...]:
        plan = make_plan(quantizers)
        return tuple(Noise(p, quantizers[p.path].bits, anatomy.stack_of(p.path) is not None) for p in plan)

    weights, activations = map(noise, quantizers_of(anatomy, recipe))
    stacks = tuple(stack.path for stack in anatomy.stacks)
    return NoisyModel(module, weights, activations, stacks, begins, limit)


def _interleaved(stacks: tuple[str, ...], path: tuple[Any, ...], even: Any, odd: Any) -> jax.Array:
    """Merges outputs, or captured values, of the examples 0, 2, 4 ... and 1, 3, 5 ... into those of the whole batch."""
    if isinstance(even, Factors):  # each half has a table of its own
        return _interleaved(stacks, path, even.logits(), odd.logits())
    keys = "/".join(str(getattr(key, "key", "")) for key in path)
    axis = int(any(f"/{stack}/" in keys for stack in stacks))  # the keys begin with the collection's name
    both = jnp.stack([even.astype(odd.dtype), odd], axis=axis + 1)
    return both.reshape(*even.shape[:axis], -1, *even.shape[axis + 1 :])
