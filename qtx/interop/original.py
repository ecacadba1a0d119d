"""Writing a model in the form of the checkpoint that it was made of; what did not change stays the same to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from qtx.attention import AttentionConfig
from qtx.families.checkpoints.llama import PREFIX_KEY
from qtx.families.weights import export_weights
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import sealed_safetensors
from qtx.interop.stored import ATTENTION_KEY, Stored, sizes_of, table_of
from qtx.interop.weight_files import INDEX, WEIGHTS, index_of
from qtx.models import OF_TRAINING, TransformerConfig, differing_options


def has_place_for(original: Stored, attention: AttentionConfig) -> bool:
    """Says whether users of the original's format can compute an attention: that of its own classes, or what code
    does."""
    return original.checkpoint.stock is not None or attention == original.checkpoint.attention


def as_in(original: Stored, config: TransformerConfig, params: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Returns config.json's values and the contents of the files of weights: with the original's names, types and
    copies, and what qtx does not compute with.

    Raises:
      QtxError: if the original is another model: all but the attention has to be equal.
    """
    checkpoint, there = original.checkpoint, original.config(None)
    for option in differing_options(config, there):
        if option not in ("attention", "prefix"):
            raise QtxError(
                f"{original.folder} is of another model, with {option} {getattr(there, option)!r} and not "
                f"{getattr(config, option, None)!r}: give the folder that this one was made of"
            )
    changed = {
        key: field.write(getattr(config, field.name))
        for key, field in checkpoint.fields.items()
        if field.name in OF_TRAINING and getattr(config, field.name) != getattr(there, field.name)
    }
    values = {k: v for k, v in (original.values | changed).items() if k not in (ATTENTION_KEY, PREFIX_KEY)}
    if config.prefix:
        values[PREFIX_KEY] = config.prefix

    names, table = original.names, table_of(checkpoint, config)
    ours = export_weights(table, params, sizes_of(config), original.tensors)
    beside = {
        file: {name: np.asarray(ours.pop(name), tensor.dtype) for name, tensor in tensors.items()}
        for file, tensors in original.beside(table).items()
    }
    theirs = {name for weight in table_of(checkpoint, there) for _, name in weight.names(sizes_of(there))}
    gone = theirs - ours.keys()  # weights of an attention that the model no longer has
    files: dict[str, dict[str, np.ndarray]] = {
        file: {
            name: np.asarray(ours.get(original.tied.get(names[name], names[name]), tensor), tensor.dtype)
            for name, tensor in tensors.items()
            if names[name] not in gone
        }
        for file, tensors in original.files.items()
    }
    # Weights of a new attention; a checkpoint that leaves the prefix out leaves it out of these names, too.
    bare = not any(name.startswith(checkpoint.prefix) for name in names)
    prefix = checkpoint.prefix if bare else ""
    more = {name.removeprefix(prefix): x for name, x in ours.items() if name not in names.values()}
    files[list(files)[-1]] |= more
    contents = {file: sealed_safetensors(tensors, format="pt") for file, tensors in files.items()}
    if WEIGHTS not in files:
        contents[INDEX] = index_of(files)
    for file, tensors in beside.items():
        own = {name.split(".", 2)[2]: x for name, x in tensors.items()}
        contents[file] = sealed_safetensors(own, format="pt")
    return values, contents
