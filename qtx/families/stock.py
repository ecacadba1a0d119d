"""The names in a stock model of `transformers` (5.23) that the file of code beside an exported model uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

OF_AUTO = {"Model": "", "LMHeadModel": "ForCausalLM"}
"""Ends of the names of stock classes whose Auto classes end otherwise."""


@dataclasses.dataclass(frozen=True)
class Stock:
    """Names in a stock model; those of its classes are without their beginning, e.g. `"Bert"`.

    Attributes:
      attention: class of the attention layer.
      made: the arguments that the layer is made with, where `config` and the layer's `index` are known.
      layers: the attribute of the base model that has its layers.
      place: the attribute of a layer that has its attention.
      projections: the layers that make queries, keys and values, or the one that makes all three, one after the other.
      out: the output projection after the heads, if it belongs to the attention layer.
      norms: the layers that normalize queries and keys by heads; empty: there are none.
      then: what the attention layer returns, where `{}` is the output so far.
      dropout: rate of dropout on the probabilities.
      classes: the stock classes that the file's classes of the same name extend.
      own: the module that has the parameters of normalizer and gate, so that they have the checkpoint's names.
      cached: whether keys and values of earlier tokens may be given.
      positions: how the layer is told of positions: `"rotary"`, by the cosines and sines that queries and keys are
        turned by; `"bias"`, by what is added to its scores; None: not at all.
      more: lines that add to `self.base_model` what a config has beside its attention, and no stock class.
    """

    attention: str
    made: str
    layers: str
    place: str
    projections: tuple[str, ...]
    out: str | None
    dropout: str
    classes: tuple[str, ...]
    norms: tuple[str, ...] = ()
    then: str = "{}"
    own: str = "self"
    cached: bool = False
    positions: str | None = None
    more: Callable[[Any], tuple[str, ...]] = lambda config: ()

    def of_auto(self, beginning: str) -> dict[str, str]:
        """Maps the Auto classes to the classes with this beginning, e.g. `AutoModelForMaskedLM: BertForMaskedLM`."""
        return {f"AutoModel{OF_AUTO.get(name, name)}": beginning + name for name in self.classes}
