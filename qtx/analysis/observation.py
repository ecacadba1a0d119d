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
from qtx.analysis.head_map import SHOWN_TOKENS
from qtx.analysis.heads import GIVEN_MASK, HEAD_SITES, by_head, layer_statistics
from qtx.foundation.batch import Batch
from qtx.masks import sample_mask, token_mask
from qtx.sites import capture, site_shapes

# Sites whose last axis is not a token's features.
NO_FEATURES = ("layers/attention/scores", "layers/attention/probs", "layers/attention/gate")
HEAD = "head/"


@dataclasses.dataclass(frozen=True)
class Observation:
    """A model's values and attention on S examples of T tokens. L layers (1 outside the layers), H heads, D features.

    Attributes:
      tokens: ids `[S, T]`; None: images.
      real: `[S, T]`, False at padding.
      sites: path to the observations of a tensor `[S, T, D]`: `peak` `[L, S, T]`, the largest magnitude of each token;
        `sigmas` `[L, S]`, the largest distance from the example's mean in standard deviations, as the paper has it;
        `reach` `[L, D]`, the largest magnitude of each feature, and `size` `[L, D]`, its root mean square.
      heads: `sink_mass`, `value_drain` `[L, S, H]` (see `head_statistics`), `sink` `[L, S, H]`, the position of the
        favourite token, and `output` `[L, S, H]`, the mean length of the head's output for a token.
      example: which example of the first batch is shown: the text that begins with most different tokens.
      shown: for that example and every head: `probs` `[L, H, T, T]`, the lengths of values and outputs `value` and
        `context` `[L, T, H]`, and with a gate `openness` `[L, T, H]`.
      stacked: which sites have a value for each layer.
    """

    tokens: np.ndarray | None
    real: np.ndarray
    sites: dict[str, dict[str, np.ndarray]]
    heads: dict[str, np.ndarray]
    example: int
    shown: dict[str, np.ndarray]
    stacked: frozenset[str]


def observe_model(model: FloatingPoint, batches: Sequence[Batch]) -> Observation:
    """Observes a model on batches of one static shape; examples that pad the last batch are left out."""
    shapes = site_shapes(model.module, model.params, batches[0])
    paths = tuple(path for path in shapes if path not in NO_FEATURES and not path.startswith(HEAD))
    example = _most_varied(batches[0])
    seen: list[Any] = [jax.device_get(_observe(model, paths, dict(batch), example)) for batch in batches]
    kept = np.concatenate([part["sample"] for part in seen])

    def joined(parts: list[np.ndarray], axis: int) -> np.ndarray:
        return np.compress(kept, np.concatenate(parts, axis), axis)

    def of_site(path: str) -> dict[str, np.ndarray]:
        parts = [part["sites"][path] for part in seen]
        rows = {name: joined([part[name] for part in parts], 1) for name in ("high", "low", "sum", "squares")}
        squares = np.sum([part["power"] for part in parts], axis=0, dtype=np.float64)
        return {
            **_of_tokens(real, shapes[path].features, **rows),
            "reach": np.max([part["reach"] for part in parts], axis=0),
            "size": np.sqrt(squares / real.sum()),
        }

    real = joined([part["real"] for part in seen], 0)
    tokens = [np.asarray(batch["tokens"]) for batch in batches if "tokens" in batch]
    return Observation(
        tokens=joined(tokens, 0) if tokens else None,
        real=real,
        sites={path: of_site(path) for path in seen[0]["sites"]},
        heads={name: joined([part["heads"][name] for part in seen], 1) for name in seen[0]["heads"]},
        example=example,
        shown=seen[0]["shown"],
        stacked=frozenset(path for path, shape in shapes.items() if shape.leading),
    )


def _most_varied(batch: Batch) -> int:
    """Finds the example that begins with most different tokens; the first, if there are several, or for images."""
    if "tokens" not in batch:
        return 0
    return int(np.argmax([len(set(tokens[:SHOWN_TOKENS])) for tokens in np.asarray(batch["tokens"]).tolist()]))


def _of_tokens(
    real: np.ndarray, features: int, high: np.ndarray, low: np.ndarray, sum: np.ndarray, squares: np.ndarray
) -> dict[str, np.ndarray]:
    """Computes `peak` and `sigmas` of `Observation.sites` from extremes and sums over features, `[L, S, T]`."""
    count = features * real.sum(axis=-1)
    mean = np.where(real, sum, 0).sum(axis=-1, dtype=np.float64) / count
    square = np.where(real, squares, 0).sum(axis=-1, dtype=np.float64) - count * mean**2
    deviation = np.sqrt(np.maximum(square, 0) / np.maximum(count - 1, 1))
    distance = np.where(real, np.maximum(high - mean[..., None], mean[..., None] - low), 0).max(axis=-1)
    return {
        "peak": np.where(real, np.maximum(high, -low), 0),
        "sigmas": distance / np.maximum(deviation, 1e-12),
    }


def _observe_site(x: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Observes one layer's tensor `[B, T, D]`, rows first: XLA's CPU compiler is fast along the last axis."""
    x = x.astype(jnp.float32)
    real = jnp.where(mask[..., None], x, 0)
    return {
        "high": x.max(axis=-1),
        "low": x.min(axis=-1),
        "sum": x.sum(axis=-1),
        "squares": jnp.square(x).sum(axis=-1),
        "reach": jnp.abs(real).max(axis=(0, 1)),
        "power": jnp.square(real).sum(axis=(0, 1)),
    }


def _observe_heads(values: dict[str, Any], mask: jax.Array) -> dict[str, jax.Array]:
    """Observes all heads in one batch, `[L, B, H]` each; see `Observation.heads`."""
    heads = by_head(values)
    table, context = layer_statistics(heads, values[GIVEN_MASK], mask), heads["context"]
    said = jnp.where(mask[..., None], jnp.linalg.norm(context.astype(jnp.float32), axis=-1), 0)
    return {
        "sink_mass": table["sink_mass"][0],
        "value_drain": table["value_drain"][0],
        "sink": jnp.argmax(table["column_mass"][0], axis=-1),
        "output": jnp.sum(said, axis=2) / jnp.maximum(jnp.sum(mask, axis=1), 1)[:, None],
    }


@jax.jit(static_argnames="paths")
def _observe(model: FloatingPoint, paths: tuple[str, ...], batch: dict[str, Any], example: int) -> dict[str, Any]:
    values = capture(model.apply, {*paths, *HEAD_SITES}, batch)[1]
    heads = by_head(values)
    mask = token_mask(batch, heads["probs"].shape[3], model.module)
    shown = {name: x[:, example] for name, x in heads.items()}
    lengths = {name: jnp.linalg.norm(shown[name].astype(jnp.float32), axis=-1) for name in ("value", "context")}
    return {
        "sample": sample_mask(batch),
        "real": mask,
        "sites": {
            path: jax.vmap(_observe_site, (0, None))(values[path], mask)
            for path in paths
            if values[path].shape[2] == mask.shape[-1]  # not patches that the class token has yet to join
        },
        "heads": _observe_heads(values, mask),
        "shown": shown | lengths,
    }
