"""Writing a model as the checkpoint that it was made of has it, down to the bits of what did not change."""

from __future__ import annotations

from typing import Any

import numpy as np

from qtx.attention import AttentionConfig
from qtx.families.weights import export_weights
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import sealed_safetensors
from qtx.interop.stored import ATTENTION_KEY, Stored, sizes_of, table_of
from qtx.interop.weight_files import INDEX, WEIGHTS, index_of
from qtx.models import TransformerConfig

# What a checkpoint does not tell: how to compute, not what.
COMPUTATION = ("dtype", "remat", "attention_backend")
# Nor how the embeddings are made that a model without a head is measured by.
MEASURED_BY = ("pooling", "normalize")
# What training may have taken another value for: the model computes the same.
OF_TRAINING = ("dropout", "attention_dropout", "init_std")


def has_place_for(original: Stored, attention: AttentionConfig) -> bool:
    """Whether who loads checkpoints in the original's format can compute an attention: timm has no code of ours."""
    return original.checkpoint is not original.family.timm or attention == AttentionConfig()


def differing_fields(config: TransformerConfig, there: TransformerConfig) -> set[str]:
    """The fields in which two configs are of different models: all, if they are of two families."""
    fields = vars(there).keys() - {*COMPUTATION, *MEASURED_BY, *OF_TRAINING}
    same = type(config) is type(there)
    return {field for field in fields if not same or getattr(config, field) != getattr(there, field)}


def as_in(original: Stored, config: TransformerConfig, params: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    """config.json's values and the contents of the files of weights: with the original's names, types and copies, and
    what qtx does not compute with.

    Raises:
      QtxError: if the original is another model's: all but the attention has to be equal.
    """
    checkpoint, there = original.checkpoint, original.config(None)
    for field in differing_fields(config, there) - {"attention"}:
        raise QtxError(
            f"{original.folder} is of another model, with {field} {getattr(there, field)!r} and not "
            f"{getattr(config, field, None)!r}: give the folder that this one was made of"
        )
    if not has_place_for(original, config.attention):
        raise QtxError(
            f"{original.folder} is timm's, and timm computes the plain softmax alone: leave the original out, to write "
            "transformers' ViT with the code of the attention"
        )
    changed = {
        key: getattr(config, field)
        for key, field in checkpoint.fields.items()
        if field in OF_TRAINING and getattr(config, field) != getattr(there, field)
    }
    values = {key: value for key, value in (original.values | changed).items() if key != ATTENTION_KEY}

    names = original.names
    ours = export_weights(table_of(checkpoint, config), params, sizes_of(config))
    theirs = {name for weight in table_of(checkpoint, there) for _, name in weight.names(sizes_of(there))}
    gone = theirs - ours.keys()  # of an attention that the model has no longer
    files: dict[str, dict[str, np.ndarray]] = {
        file: {
            name: np.asarray(ours.get(checkpoint.tied.get(names[name], names[name]), tensor), tensor.dtype)
            for name, tensor in tensors.items()
            if names[name] not in gone
        }
        for file, tensors in original.files.items()
    }
    # What another attention has learned. A checkpoint that leaves the prefix out has it nowhere.
    bare = not any(name.startswith(checkpoint.prefix) for name in names)
    prefix = checkpoint.prefix if bare else ""
    more = {name.removeprefix(prefix): x for name, x in ours.items() if name not in names.values()}
    files[list(files)[-1]] |= more
    contents = {file: sealed_safetensors(tensors, format="pt") for file, tensors in files.items()}
    if WEIGHTS not in files:
        contents[INDEX] = index_of(files)
    return values, contents
