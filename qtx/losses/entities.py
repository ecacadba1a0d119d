"""Cross entropy of the classes of words, which are also measured by the entities that they make up, for F1.

Entities are found as seqeval's default mode finds them, by the rules of the CoNLL-2000 script `conlleval`: in labels of
IOB2 and, as they come, of IOB1, IOBES and BILOU.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qtx.foundation.batch import Batch
from qtx.losses.base import Loss, Training
from qtx.losses.binary_cross_entropy import OF_LABEL
from qtx.losses.cross_entropy import cross_entropy_sums, training_sums
from qtx.losses.sums import PredictionSums

OUTSIDE, BEGIN, INSIDE, END, SINGLE = range(5)
PLACES = {"B": BEGIN, "I": INSIDE, "E": END, "L": END, "S": SINGLE, "U": SINGLE}
PREFIXED = re.compile(f"([{''.join(PLACES)}])-(.+)", re.DOTALL)


class Scheme(NamedTuple):
    """The meaning of classes: for each of C the place within an entity, and the number of the entity's type.

    Attributes:
      places: the places, of `OUTSIDE` and those in `PLACES`, `[C]`.
      of_type: the numbers of the types, `[C]`; 0 for what is outside.
      types: the names of the types.
    """

    places: np.ndarray
    of_type: np.ndarray
    types: tuple[str, ...]


def scheme_of(names: Sequence[str]) -> Scheme:
    """Returns the scheme of classes by their names: `O`, `B-PER`, `I-PER`, ... A name without such a prefix is a type:
    of neighbours that make up one entity if there is a class `O`, or else, as parts of speech, of single words."""
    bare = INSIDE if "O" in names else SINGLE
    parts = [(OUTSIDE, "") if name == "O" else _parts(name, bare) for name in names]
    types = tuple(sorted({kind for place, kind in parts if place != OUTSIDE})) or ("",)
    of_type = [0 if place == OUTSIDE else types.index(kind) for place, kind in parts]
    return Scheme(np.array([place for place, _ in parts], np.int32), np.array(of_type, np.int32), types)


def _parts(name: str, bare: int) -> tuple[int, str]:
    found = PREFIXED.fullmatch(name)
    return (PLACES[found[1]], found[2]) if found else (bare, name)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["predictions", "by_type"], meta_fields=["types"])
@dataclasses.dataclass(frozen=True)
class EntitySums:
    """`PredictionSums` over words, and the counts of entities that F1 is computed from.

    Attributes:
      predictions: the sums over words.
      by_type: numbers `[3, K]` of the right entities of a type, of those that were found, and of those in the labels.
      types: the names of the K types.
    """

    predictions: PredictionSums
    by_type: Any
    types: tuple[str, ...]

    def metrics(self) -> dict[str, float]:
        """Returns the metrics of `PredictionSums` over words; precision, recall and f1 over the entities of all types
        (micro), NaN if there are none; and F1 of each type, `f1/PER`, without types that neither are found nor should
        be."""
        counts = np.asarray(self.by_type, np.float64)
        right, found, there = counts.sum(axis=1)
        whole = {"precision": (right, found), "recall": (right, there), "f1": (2 * right, found + there)}
        nothing = 0.0 if found + there else math.nan
        scores = {name: float(part / total) if total else nothing for name, (part, total) in whole.items()}
        of_types = {
            f"{OF_LABEL}{name}": float(2 * r / (f + t))
            for name, r, f, t in zip(self.types, *counts, strict=True)
            if f + t
        }
        return {**self.predictions.metrics(), **scores, **of_types}


class _Entities(NamedTuple):
    """The entities of labels, `[B, T]`: where one begins, where the one that begins there ends, and of which type."""

    begins: jax.Array
    ends: jax.Array
    of_type: jax.Array


def _entities(classes: jax.Array, words: jax.Array, scheme: Scheme) -> _Entities:
    """Finds the entities among the classes `[B, T]` of words, which come first, as `words` `[B, T]` says."""
    place = jnp.where(words, jnp.asarray(scheme.places)[classes], OUTSIDE)
    of_type = jnp.asarray(scheme.of_type)[classes]
    after, type_after = (jnp.pad(x[:, 1:], ((0, 0), (0, 1))) for x in (place, of_type))
    # Whether an entity cannot go on from a word to the next one.
    parted = (place == END) | (place == SINGLE) | (after == BEGIN) | (after == SINGLE) | (of_type != type_after)
    parted |= (place == OUTSIDE) | (after == OUTSIDE)
    ends = parted & (place != OUTSIDE)
    begins = jnp.pad(parted[:, :-1], ((0, 0), (1, 0)), constant_values=True) & (place != OUTSIDE)
    length = classes.shape[1]
    next_end = jax.lax.cummin(jnp.where(ends, jnp.arange(length), length), axis=1, reverse=True)
    return _Entities(begins, next_end, of_type)


def entity_counts(predicted: jax.Array, labels: jax.Array, words: jax.Array, scheme: Scheme) -> jax.Array:
    """Returns the numbers of right, found and labelled entities of each type, float32 `[3, K]`.

    Args:
      predicted, labels: classes `[B, T]`, int32.
      words: the positions that are words, `[B, T]`; those between do not part neighbours.
      scheme: the meaning of the classes.
    """
    order = jnp.argsort(~words, axis=1, stable=True)
    predicted, labels, words = (jnp.take_along_axis(x, order, axis=1) for x in (predicted, labels, words))
    found, there = (_entities(classes, words, scheme) for classes in (predicted, labels))
    right = found.begins & there.begins & (found.ends == there.ends) & (found.of_type == there.of_type)
    kinds = np.arange(len(scheme.types))

    def count(which: jax.Array, of_type: jax.Array) -> jax.Array:
        return (which[..., None] & (of_type[..., None] == kinds)).sum((0, 1)).astype(jnp.float32)

    return jnp.stack(
        [count(right, there.of_type), count(found.begins, found.of_type), count(there.begins, there.of_type)]
    )


@dataclasses.dataclass(frozen=True)
class EntityCrossEntropy(Loss):
    """The cross entropy of logits `[B, T, C]` and `labels` `[B, T]` of words, as a mean over words; `weights` `[B, T]`
    say where words are. Held-out words are measured by their entities too.

    Attributes:
      names: the names of the classes, which say what is an entity (see `scheme_of`); one without a name is a type.
    """

    names: tuple[str, ...] = ()

    window = PredictionSums

    def __call__(self, output: jax.Array, batch: Batch, training: Training) -> PredictionSums:
        return training_sums(output, batch, training.label_smoothing)

    def measured(self, output: jax.Array, batch: Batch, shards: int) -> EntitySums:
        labels, words = batch["labels"], batch["weights"] > 0
        scheme = scheme_of([*self.names, *map(str, range(len(self.names), output.shape[-1]))])
        by_type = entity_counts(output.argmax(axis=-1), labels, words, scheme)
        return EntitySums(cross_entropy_sums(output, labels, batch["weights"]), by_type, scheme.types)
