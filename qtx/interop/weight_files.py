"""The files of a checkpoint's weights: one of safetensors, or shards and the index that tells each tensor's shard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected, StoredTensor, inside, read_json, read_safetensors

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
EXPECTED = Expected("a model's weights", "save the model there with transformers' save_pretrained(folder)")
AGAIN = "save the model again or fetch the folder again"
INDEXED, SHARD = Expected("an index of a model's weights", AGAIN), Expected("a shard of a model's weights", AGAIN)
UNSAFE = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack", "*.pt", "*.pth")
"""Weights in formats that qtx does not read."""

StoredTensors = dict[str, StoredTensor]


def open_weights(folder: Path) -> dict[str, StoredTensors]:
    """Opens a folder's files of weights: the name of each to its tensors by their names; no tensor is read.

    Raises:
      QtxError: if a file is missing or broken, or there are none that qtx reads.
    """
    if not (folder / WEIGHTS).is_file() and (folder / INDEX).is_file():
        return _shards(folder)
    unsafe = sorted(path.name for pattern in UNSAFE for path in folder.glob(pattern))
    if unsafe and not (folder / WEIGHTS).exists():
        raise QtxError(
            f"{folder} has weights only in {unsafe[0]}: qtx reads safetensors alone, as reading a pickle runs the code "
            "in it; on a machine that may, load the model with transformers and save it with "
            "save_pretrained(folder, safe_serialization=True)"
        )
    return {WEIGHTS: read_safetensors(folder / WEIGHTS, EXPECTED)}


def _shards(folder: Path) -> dict[str, StoredTensors]:
    places = read_json(folder / INDEX, INDEXED).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(shard, str) for shard in places.values()):
        raise INDEXED.refusal(folder / INDEX, "it has no weight_map of names to files")
    shards = {name: read_safetensors(inside(folder, name, INDEXED), SHARD) for name in sorted(set(places.values()))}
    for shard, tensors in shards.items():
        meant = {name for name, place in places.items() if place == shard}
        for names, problem in ((meant - tensors.keys(), "lacks"), (tensors.keys() - meant, "has unexpected")):
            if names:
                raise QtxError(f"{folder / shard} {problem} {min(names)}: check it against {INDEX}")
    return shards


def index_of(files: Mapping[str, Mapping[str, np.ndarray]]) -> bytes:
    """Returns the index of shards, as the bytes of its file."""
    size = sum(x.nbytes for tensors in files.values() for x in tensors.values())
    places = {name: file for file, tensors in files.items() for name in tensors}
    values = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    return (json.dumps(values, indent=2) + "\n").encode()
