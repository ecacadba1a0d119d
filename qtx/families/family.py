"""What is known of a model family besides how it computes; one instance per family."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from qtx.families.checkpoint import Checkpoint
from qtx.models import TransformerConfig


@dataclasses.dataclass(frozen=True)
class MeasuredSites:
    """What the outlier metrics of a family are taken over.

    Attributes:
      infinity_norm: the site whose largest infinity norm over the layers is the paper's "max infinity norm"; one of the
        next two.
      kurtosis: site to the official code's name of its tensor; the average over all of them is the paper's "average
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
        """Every measured site to its official name."""
        return {**self.kurtosis, **self.norms_only}


@dataclasses.dataclass(frozen=True)
class Family:
    """One model family.

    Attributes:
      title: e.g. `"BERT"`.
      module: the Linen module of a config; it keeps it as `config`.
      config: the class of its configs, no other family's.
      objectives: what it is trained on, as far as its attention mask fits; the first is the default.
      heads: of a family with an option `head`, objective to the head that it trains; one left out trains any.
      measured: what the outlier metrics of a config's module are taken over.
      recipe: the default one, a name in `qtx.quantization.recipes.RECIPES`.
      checkpoint: how Hugging Face stores it; None: not at all.
      timm: how timm stores it; None: not at all.
      vocab_size: of the published models, for plans that nothing else tells the size.
      small: options of a config that a smoke test shrinks beside the sizes that it gives every family's (second
        argument).
    """

    title: str
    module: Callable[[Any], nn.Module]
    config: type[TransformerConfig]
    objectives: tuple[str, ...]
    measured: Callable[[Any], MeasuredSites]
    recipe: str = "strict"
    heads: Mapping[str, str] = dataclasses.field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    timm: Checkpoint | None = None
    vocab_size: int | None = None
    small: Callable[[Any, Mapping[str, Any]], dict[str, Any]] = lambda config, sizes: {}
