"""A `Family` says what is known of a model family besides how it computes; there is one instance per family."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from qtx.families.checkpoint import Checkpoint
from qtx.models import TransformerConfig


@dataclasses.dataclass(frozen=True)
class MeasuredSites:
    """`MeasuredSites` says which sites the outlier metrics of a family are taken over.

    Attributes:
      infinity_norm: the site whose largest infinity norm over the layers is the paper's "max infinity norm"; one of
        those in `kurtosis` and `norms_only`.
      kurtosis: site to the official code's name of its tensor; the average over all of these is the paper's "average
        kurtosis".
      norms_only: as `kurtosis`, for further tensors of which the official code reports the infinity norm alone.
      maxima: the official code's summary name to the sites that the maximum of the infinity norms is over.
    """

    infinity_norm: str
    kurtosis: Mapping[str, str]
    norms_only: Mapping[str, str] = dataclasses.field(default_factory=dict)
    maxima: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, str]:
        """Returns every measured site with its official name."""
        return {**self.kurtosis, **self.norms_only}


@dataclasses.dataclass(frozen=True)
class Family:
    """One model family.

    Attributes:
      title: the family's name in texts, e.g. `"BERT"`.
      module: makes the Linen module of a config; the module keeps the config as `config`.
      config: the class of the family's configs, no other family's.
      objectives: what the family is trained on, as far as its attention mask fits; the first is the default.
      heads: for a family with an option `head`, objective to the head that it trains; one left out trains any.
      measured: what the outlier metrics of a config's module are taken over.
      recipe: the default quantization recipe, a name in `qtx.quantization.recipes.RECIPES`.
      checkpoints: the kinds of checkpoint that store the family. A model without an original is written as the first
        that can say all of its config.
      vocab_size: the vocabulary of the published models, for plans that nothing else tells the size.
      small: from a config and the sizes that a smoke test gives every family, further options that the test shrinks.
    """

    title: str
    module: Callable[[Any], nn.Module]
    config: type[TransformerConfig]
    objectives: tuple[str, ...]
    measured: Callable[[Any], MeasuredSites]
    recipe: str = "strict"
    heads: Mapping[str, str] = dataclasses.field(default_factory=dict)
    checkpoints: tuple[Checkpoint, ...] = ()
    vocab_size: int | None = None
    small: Callable[[Any, Mapping[str, Any]], dict[str, Any]] = lambda config, sizes: {}
