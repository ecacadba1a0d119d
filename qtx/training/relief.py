"""Relief: what is changed of a trained decoder before it learns to bear integers, so that no outlier need be trained
away: keys and values stand before every text, hidden units that write spikes are scaled down, and learned sinks begin
where the scores of the first token are."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError
from qtx.masks import token_mask
from qtx.models.rotary import turned
from qtx.sites import capture

UNIT = re.compile(r"(\d+):(\d+)=(\d*\.?\d+)")
KEYS, VALUES = "layers/attention/rotated_key", "layers/attention/value"
PREFIX = "layers/attention/prefix"
SCORES, SINKS = "layers/attention/scores", "layers/attention/normalizer/sinks"
UP, DOWN = "layers/mlp/in", "layers/mlp/out/kernel"


@dataclasses.dataclass(frozen=True)
class ReliefConfig:
    """A `ReliefConfig` says what is changed of the parameters of the run that training starts from.

    Attributes:
      prefix: the tokens whose keys and values stand before every text (`qtx.attention.prefix`), which the model's
        option `prefix` counts.
      units: hidden units of feed-forward networks and the factor on their activations, `"LAYER:UNIT=FACTOR"`.
      sinks: whether the learned empty key of each head (`qtx.attention.normalizers.sink`) begins with the mean score
        that the head gives to the first token of a text, instead of 0, so that it may stand in for that token.

    Raises:
      QtxError: for a unit that is written otherwise, or named twice.
    """

    prefix: tuple[int, ...] = ()
    units: tuple[str, ...] = ()
    sinks: bool = False

    def __post_init__(self):
        if len(self.factors) < len(self.units):
            raise QtxError(f"units are {self.units}: each may be named once")
        if not all(type(token) is int and token >= 0 for token in self.prefix):
            raise QtxError(f"prefix is {self.prefix}: expected numbers of tokens, e.g. (198,)")

    @property
    def factors(self) -> dict[tuple[int, int], float]:
        """Returns the factors by layer and unit."""
        found = {unit: UNIT.fullmatch(unit) for unit in self.units}
        for unit, match in found.items():
            if match is None:
                raise QtxError(f"units have {unit!r}: expected LAYER:UNIT=FACTOR, e.g. '2:90=0.1'")
        return {(int(m[1]), int(m[2])): float(m[3]) for m in found.values() if m}


def relieved(relief: ReliefConfig, module: nn.Module, original: nn.Module, params: Any) -> Any:
    """Returns the parameters of a model with a prefix and with scaled units.

    Args:
      relief: what is changed.
      module: the model, whose config has the prefix.
      original: the model without the prefix.
      params: the parameters; those of a prefix do not count.

    Raises:
      QtxError: if there is no such unit, or the model cannot have a prefix.
    """
    flat = dict(traverse_util.flatten_dict(params, sep="/"))
    if relief.prefix:
        own = {path: x for path, x in flat.items() if not path.startswith(PREFIX)}
        key, value = prefix_of(original, traverse_util.unflatten_dict(own, sep="/"), relief.prefix)
        flat |= {f"{PREFIX}/key": key, f"{PREFIX}/value": value}
    return traverse_util.unflatten_dict(scaled(flat, relief.factors, module), sep="/")


def with_sinks(params: Any, original: nn.Module, batches: Iterable[Batch]) -> Any:
    """Returns the parameters of a model whose learned sinks are the mean scores of the first token of a text, of all
    later real tokens of batches, in a trained model.

    Args:
      params: of the model with sinks; those that the trained model has are the trained model's.
      original: the trained model.
      batches: of the trained model's training data.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    trained = traverse_util.unflatten_dict({path: x for path, x in flat.items() if path != SINKS}, sep="/")
    sums = [_first_scores(original, trained, batch) for batch in batches]
    total, number = (sum(parts) for parts in zip(*sums, strict=True))
    return traverse_util.unflatten_dict({**flat, SINKS: total / number}, sep="/")


@functools.partial(jax.jit, static_argnums=0)
def _first_scores(module: nn.Module, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Returns the sums `[L, H]` of the scores of each text's first token at later real tokens, and their number."""
    scores = capture(module.apply, (SCORES,), {"params": params}, batch)[1][SCORES][..., 1:, 0]
    real = token_mask(batch, scores.shape[-1] + 1, module)[:, 1:]
    return jnp.where(real[:, None], scores, 0.0).sum(axis=(1, 3)), real.sum()


def prefix_of(module: nn.Module, params: Any, tokens: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Returns the keys and values `[L, P, K, D]` of tokens that stand alone, the keys as at positions -P to -1."""
    config: Any = module.config
    vocabulary = config.vocab_size
    if any(token >= vocabulary for token in tokens):
        raise QtxError(f"the prefix {tuple(tokens)} has tokens that a vocabulary of {vocabulary:,} does not have")
    captured = _captured(module, params, jnp.asarray([list(tokens)], jnp.int32))
    spec, number = config.attention_spec, len(tokens)
    heads = (number, spec.kv_heads, spec.head_dim or config.width // spec.num_heads)
    key, value = (captured[site].reshape(-1, 1, *heads) for site in (KEYS, VALUES))
    back = functools.partial(turned, positions=jnp.float32(-number))
    key = jax.vmap(lambda x, angles: back(x, frequencies=angles))(key, jnp.asarray(config.per_layer["frequencies"]))
    return key[:, 0], value[:, 0]


@functools.partial(jax.jit, static_argnums=0)
def _captured(module: nn.Module, params: Any, tokens: jax.Array) -> dict[str, jax.Array]:
    return capture(module.apply, (KEYS, VALUES), {"params": params}, {"tokens": tokens})[1]


def can_be_scaled(params: Any) -> bool:
    """Says whether a model's feed-forward networks are those of `qtx.models`, each layer's its own."""
    return getattr(traverse_util.flatten_dict(params, sep="/").get(DOWN), "ndim", 0) == 3


def scaled_unit(module: nn.Module, params: Any, layer: int, unit: int, factor: float) -> Any:
    """Returns the parameters of a model with one hidden unit scaled."""
    return relieved(ReliefConfig(units=(f"{layer}:{unit}={factor:g}",)), module, module, params)


def scaled(flat: Mapping[str, Any], factors: Mapping[tuple[int, int], float], module: nn.Module) -> dict[str, Any]:
    """Returns parameters by path with hidden units scaled: in a gated network by what the activation multiplies, which
    the hidden activations follow, else by what reads the unit."""
    config: Any = module.config
    units = flat[DOWN].shape[1]
    for layer, unit in factors:
        if layer >= config.num_layers or unit >= units:
            raise QtxError(
                f"units have {layer}:{unit}: the model has layers up to {config.num_layers - 1}, of units up to "
                f"{units - 1}"
            )
    by_unit = np.ones((config.num_layers, units), np.float32)
    for place, factor in factors.items():
        by_unit[place] = factor
    if not config.gated:
        return {**flat, DOWN: flat[DOWN] * by_unit[:, :, None]}
    changed = {f"{UP}/kernel": by_unit[:, None, :], f"{UP}/bias": by_unit}
    return {path: x * changed[path] if path in changed else x for path, x in flat.items()}
