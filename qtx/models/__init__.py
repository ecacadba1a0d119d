"""BERT, OPT and ViT on one shared block. A new family is a file here and a line in `MODELS`."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax

from qtx.foundation.errors import QtxError
from qtx.models.bert import Bert, BertConfig
from qtx.models.block import TransformerConfig
from qtx.models.opt import Opt, OptConfig
from qtx.models.vit import Vit, VitConfig

MODELS: dict[str, tuple[type[nn.Module], type[TransformerConfig]]] = {
    "bert": (Bert, BertConfig),
    "opt": (Opt, OptConfig),
    "vit": (Vit, VitConfig),
}

FROM_DATA = ("vocab_size", "image_size", "channels", "num_classes")
"""Options that a config may leave to the data."""


def build(config: TransformerConfig, data: Any = None) -> nn.Module:
    """The module of a config, with what the config leaves open taken from the data.

    Args:
      config: of any registered family.
      data: has `vocab_size` and `sequence_length`, or `image_size`, `channels` and `num_classes`; None if `config`
        says all.

    Raises:
      QtxError: if model and data disagree, naming both.
    """
    if data is not None:
        names = {f.name for f in dataclasses.fields(config)}
        for name in names & set(FROM_DATA):
            of_data, of_model = getattr(data, name), getattr(config, name)
            if of_data is None:
                raise QtxError(
                    f"the data has no {name}, which a {type(config).__name__} needs: choose a source for this family"
                )
            if of_model is None:
                config = dataclasses.replace(config, **{name: of_data})
            # A word table may have more rows than the tokenizer (OPT pads it); anything else must be equal.
            elif of_model < of_data or (name != "vocab_size" and of_model != of_data):
                raise QtxError(
                    f"config.model.{name} is {of_model}, but the data has {of_data}: leave it out to take the data's"
                )
        longest = getattr(config, "max_length", None)
        if longest is not None and data.sequence_length > longest:
            raise QtxError(
                f"config.data.sequence_length {data.sequence_length} exceeds config.model.max_length {longest}: "
                "raise max_length or shorten the sequences"
            )
    module = next(module for module, cls in MODELS.values() if type(config) is cls)
    return module(config)


def count_parameters(params: Any) -> int:
    """Number of scalars in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


__all__ = [
    "MODELS",
    "Bert",
    "BertConfig",
    "Opt",
    "OptConfig",
    "TransformerConfig",
    "Vit",
    "VitConfig",
    "build",
    "count_parameters",
]
