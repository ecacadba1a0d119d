"""Model families. A new one is a file here, with its `Family`, and a line in `FAMILIES`."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn

from qtx.families.bert import BERT
from qtx.families.checkpoint import Checkpoint
from qtx.families.family import Family, MeasuredSites
from qtx.families.llama import LLAMA
from qtx.families.modern_bert import MODERN_BERT
from qtx.families.opt import OPT
from qtx.families.rotary_bert import ROTARY_BERT
from qtx.families.vit import VIT
from qtx.foundation.errors import QtxError
from qtx.models import TransformerConfig

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "modern_bert": MODERN_BERT,
    "rotary_bert": ROTARY_BERT,
    "opt": OPT,
    "llama": LLAMA,
    "vit": VIT,
}
"""Families by the name that experiments use. One from elsewhere is registered by `FAMILIES["name"] = Family(...)`."""


def family_of(config: TransformerConfig) -> Family:
    """Returns the family that a config belongs to.

    Raises:
      QtxError: if the config belongs to none, or to several.
    """
    found = [name for name, family in FAMILIES.items() if type(config) is family.config]
    if len(found) > 1:
        raise QtxError(
            f"the families {' and '.join(found)} have the same config, {type(config).__name__}, by which a model's "
            "family is told: give each a class of its own (a subclass will do)"
        )
    if found:
        return FAMILIES[found[0]]
    known = ", ".join(family.config.__name__ for family in FAMILIES.values())
    raise QtxError(
        f"{type(config).__name__} is no model family's config (known: {known}): register its family in "
        "qtx.families.FAMILIES"
    )


def build(config: TransformerConfig, data: Any = None) -> nn.Module:
    """Makes the module of a config, with what the config leaves open taken from the data; see `completed`."""
    config = completed(config, data)
    return family_of(config).module(config)


def completed(config: TransformerConfig, data: Any = None) -> TransformerConfig:
    """Returns a config with what it leaves open taken from the data.

    Args:
      config: the config of a model of any registered family.
      data: has `vocab_size`, `sequence_length` and `token_types`, or `image_size`, `channels` and `num_classes`; None
        if `config` leaves nothing open.

    Raises:
      QtxError: if model and data disagree, naming both.
    """
    if data is not None:
        all_of_each = getattr(config, "head", None) in ("regression", "multi_label")
        for name in config.from_data:
            of_data, of_model = getattr(data, name), getattr(config, name)
            if of_data is None and name == "num_classes" and of_model is not None:
                continue  # the objective may need no labels
            if of_data is None:
                raise QtxError(
                    f"the data has no {name}, which a {type(config).__name__} needs: choose a source for this family"
                )
            if of_model is None:
                config = dataclasses.replace(config, **{name: of_data})
            elif name == "vocab_size" and of_model < of_data:
                raise QtxError(
                    f"config.model.vocab_size is {of_model}, but the data has {of_data} tokens: expected {of_data} or "
                    "more, or a smaller tokenizer"
                )
            elif name == "num_classes" and of_model != of_data and all_of_each:
                raise QtxError(
                    f"config.model.num_classes is {of_model}, but the data have {of_data} labels of each text: give as "
                    "many as the model has outputs, in their order"
                )
            elif name == "num_classes" and of_model < of_data:
                raise QtxError(
                    f"config.model.num_classes is {of_model}, but the data has {of_data} classes: choose data with the "
                    "model's labels, or train a head for these"
                )
            # The embedding table may have more rows than the tokenizer (OPT pads it), and data may lack classes;
            # anything else must be equal.
            elif name not in ("vocab_size", "num_classes") and of_model != of_data:
                raise QtxError(
                    f"config.model.{name} is {of_model}, but the data has {of_data}: set config.data.{name} to "
                    f"{of_model}, or leave config.model.{name} out of a new model"
                )
        types = getattr(config, "type_vocab_size", None)
        if types and types < getattr(data, "token_types", 1):
            raise QtxError(
                f"config.model.type_vocab_size is {types}, but the tokenizer gives pairs of texts {data.token_types} "
                "token types: choose a tokenizer that gives both texts the same, as that of the model should"
            )
        longest = getattr(config, "max_length", None)
        if longest is not None and data.sequence_length > longest:
            raise QtxError(
                f"config.data.sequence_length {data.sequence_length} exceeds config.model.max_length {longest}: "
                f"set it to {longest} or less, or give a new model more positions"
            )
        if data.sequence_length is not None:
            config = config.trained_at(data.sequence_length)
    return config.resolved()


__all__ = ["FAMILIES", "Checkpoint", "Family", "MeasuredSites", "build", "completed", "family_of"]
