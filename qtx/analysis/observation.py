"""An observation is what one pass over held-out data tells a diagnosis of a model in floating point: where the model's
largest values are, and where its heads look."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qtx.analysis.capture import FloatingPoint
from qtx.analysis.head_map import SHOWN_TOKENS, shown
from qtx.analysis.heads import attentions, look_at_heads
from qtx.analysis.statistics import largest_distance
from qtx.anatomy import Anatomy, read
from qtx.foundation.batch import Batch
from qtx.masks import sample_mask, tokens_at
from qtx.parts import Part
from qtx.quantization.plan import sites_beside

NO_FEATURES = (Part.SCORES, Part.PROBS, Part.HEAD)
"""Parts whose last axis is not a token's features, or that are not of the residual stream."""
SUMS = (Part.EMBEDDED, Part.RESIDUAL)
"""Parts that are sums, unless a module with parameters makes them."""


@dataclasses.dataclass(frozen=True)
class Observation:
    """A model's values and attention on S examples of T tokens. L layers (1 outside the layers), H heads, D features.

    Attributes:
      tokens: ids `[S, T]`, anything where `real` is False; None: images.
      real: `[S, T]`, False at padding.
      sites: path to the observations of a tensor `[S, T, D]`: `peak` `[L, S, T]`, the largest magnitude of each token;
        `sigmas` `[L, S]`, the largest distance from the example's mean in standard deviations, as the paper has it;
        `reach` `[L, D]`, the largest magnitude of each feature, and `size` `[L, D]`, its root mean square.
      heads: `sink_mass`, `value_drain` `[L, S, H]` (see `head_statistics`), `sink` `[L, S, H]`, the position of the
        favourite token, and `output` `[L, S, H]`, the mean length of the head's output for a token.
      example: which example of the first batch is shown: the text that begins with most different tokens.
      shown: the result of `qtx.analysis.head_map.shown` for that example.
      stacked: which sites have a value for each layer.
      sums: which sites are sums of others.
      layers: the names of the L layers of `heads`, e.g. `"layers/attention[2]"`.
    """

    tokens: np.ndarray | None
    real: np.ndarray
    sites: dict[str, dict[str, np.ndarray]]
    heads: dict[str, np.ndarray]
    example: int
    shown: dict[str, np.ndarray]
    stacked: frozenset[str]
    sums: frozenset[str] = frozenset()
    layers: tuple[str, ...] = ()


def observe_model(model: FloatingPoint, batches: Sequence[Batch]) -> Observation:
    """Observes a model on batches of one static shape; examples that pad the last batch are left out."""
    anatomy, heads = read(model.module, batches[0]), attentions(model.module, batches[0])
    left_out = {one.gate for one in heads}
    sites = sites_beside(anatomy, ()).values()
    paths = tuple(site.path for site in sites if site.part not in NO_FEATURES and site.path not in left_out)
    example = _most_varied(batches[0])
    seen: list[Any] = [jax.device_get(_observe(model, paths, dict(batch), example)) for batch in batches]
    kept = np.concatenate([part["sample"] for part in seen])

    def joined(parts: list[np.ndarray], axis: int) -> np.ndarray:
        return np.compress(kept, np.concatenate(parts, axis), axis)

    def of_site(path: str) -> dict[str, np.ndarray]:
        parts = [part["sites"][path] for part in seen]
        squares = np.sum([part["power"] for part in parts], axis=0, dtype=np.float64)
        return {
            **{name: joined([part[name] for part in parts], 1) for name in ("peak", "sigmas")},
            "reach": np.max([part["reach"] for part in parts], axis=0),
            "size": np.sqrt(squares / real.sum()),
        }

    real = joined([part["real"] for part in seen], 0)
    made = {path.rpartition("/")[0] for path in anatomy.parameters}
    return Observation(
        tokens=joined([part["tokens"] for part in seen], 0) if "tokens" in batches[0] else None,
        real=real,
        sites={path: of_site(path) for path in seen[0]["sites"]},
        heads={name: joined([part["heads"][name] for part in seen], 1) for name in seen[0]["heads"]},
        example=example,
        shown=seen[0]["shown"],
        stacked=frozenset(path for path in paths if anatomy.stack_of(path)),
        sums=frozenset(site.path for site in anatomy.sites_of(SUMS) if site.path not in made),
        layers=tuple(name for one in heads for name in _layer_names(one.path, anatomy)),
    )


def _layer_names(path: str, anatomy: Anatomy) -> list[str]:
    depth = anatomy.leading(path)
    return [f"{path}[{layer}]" for layer in range(*depth)] if depth else [path]


def _most_varied(batch: Batch) -> int:
    """Finds the example that begins with most different tokens; the first, if there are several, or for images."""
    if "tokens" not in batch:
        return 0
    return int(np.argmax([len(set(tokens[:SHOWN_TOKENS])) for tokens in np.asarray(batch["tokens"]).tolist()]))


def _observe_site(x: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Observes one layer's tensor `[B, T, D]`."""
    real = jnp.where(mask[..., None], x.astype(jnp.float32), 0)
    size = jnp.abs(real)
    return {
        "peak": size.max(axis=-1),
        "sigmas": largest_distance(x, mask[..., None]),
        "reach": size.max(axis=(0, 1)),
        "power": jnp.square(real).sum(axis=(0, 1)),
    }


@jax.jit(static_argnames="paths")
def _observe(model: FloatingPoint, paths: tuple[str, ...], batch: dict[str, Any], example: int) -> dict[str, Any]:
    values, (tensors, statistics, mask) = look_at_heads(model, batch, paths)
    return {
        "sample": sample_mask(batch),
        "real": mask,
        "tokens": tokens_at(batch, mask.shape[1], model.module),
        "sites": {
            path: jax.vmap(_observe_site, (0, None))(values[path], mask)
            for path in paths
            if values[path].shape[2] == mask.shape[-1]  # not patches that the class token has yet to join
        },
        "heads": {
            **{name: statistics[name][0] for name in ("sink_mass", "value_drain", "output")},
            "sink": jnp.argmax(statistics["column_mass"][0], axis=-1),
        },
        "shown": shown(tensors, example),
    }
