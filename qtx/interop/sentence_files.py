"""This module writes what loaders do with an encoder's last hidden states, where a user chose otherwise than the
checkpoint that the encoder was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qtx.foundation.errors import QtxError
from qtx.interop.carried import MODULES
from qtx.interop.sentence import CONFIG, LIBRARY, NORMALIZE, POOLING, TRANSFORMER, Modules, read_modules
from qtx.models.pooling import SEPARATOR

WITHOUT_FILES = Modules("mean", normalize=False)
"""The modules that sentence-transformers takes a folder for which lists none."""


def modules_files(config: Any, original: Path | None) -> dict[str, bytes]:
    """Returns sentence-transformers' files of a model's pooling and normalization, by their paths in the folder of a
    checkpoint; none if the original's, or none at all, say the same.

    Args:
      config: the model's config.
      original: the checkpoint folder that the model was made of; None: it was trained from scratch.
    """
    if getattr(config, "head", None) != "none" or not hasattr(config, "modules"):
        return {}  # not an encoder of texts
    there = WITHOUT_FILES
    if original is not None and (original / MODULES).is_file():
        try:
            there = read_modules(original)
        except QtxError:
            return {}  # what qtx cannot read, others may
    # Beside dense layers nothing can be chosen.
    if config.modules or all(getattr(config, name) == value for name, value in there.options().items()):
        return {}
    names = config.pooling.split(SEPARATOR)
    pooling = {
        "word_embedding_dimension": config.width,
        # Versions before 5.7 read one name alone.
        "pooling_mode": names if len(names) > 1 else names[0],
        "include_prompt": config.include_prompt,
    }
    kinds = {TRANSFORMER: "", POOLING: f"1_{POOLING}"} | ({NORMALIZE: f"2_{NORMALIZE}"} if config.normalize else {})
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{LIBRARY}models.{kind}"}
        for i, (kind, path) in enumerate(kinds.items())
    ]
    files = {MODULES: modules, f"{kinds[POOLING]}/{CONFIG}": pooling}
    return {name: json.dumps(values, indent=2).encode() + b"\n" for name, values in files.items()}
