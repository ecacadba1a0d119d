"""A run's attention backend is chosen once, recorded, and kept when training resumes.

Backends draw dropout differently: a run that changed its backend midway, on another kind of machine or with a later
version, would no longer be the run that it was.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from qtx.attention.fused import AUTO, BACKEND_NAMES, NAIVE, SEPARATOR
from qtx.foundation.errors import QtxError
from qtx.models import TransformerConfig
from qtx.pipeline.assemble import Assembled
from qtx.training.run_folder import RunFolder

BACKEND = "attention_backend"


def training_backend(assembled: Assembled, workdir: Path) -> str:
    """Returns the attention backend of a run's training steps: the recorded one if the run has begun, else the one that
    a step takes under the config. Several names are separated by commas, where layers take different backends.

    Raises:
      QtxError: if the run began with a backend that this version does not have.
    """
    folder = RunFolder(workdir)
    if not folder.checkpoints.is_dir():
        return assembled.backend
    taken = folder.taken()[BACKEND]
    for name in taken.split(SEPARATOR):
        if name not in BACKEND_NAMES:
            raise QtxError(
                f"{folder.root} was begun with attention backend {name!r}, which this version of qtx does not have "
                f"(it has {', '.join(BACKEND_NAMES[1:])}): go on with the version that began it"
            )
    return taken


def with_backend(model: TransformerConfig, taken: str) -> TransformerConfig:
    """Returns a model's config with `auto` replaced by the backend that was taken. `naive`, which is taken wherever
    something looks at scores or probabilities, does not count beside another; with several others, `auto` stays."""
    names = set(taken.split(SEPARATOR))
    others = sorted(names - {NAIVE}) or [NAIVE]
    if model.attention_backend != AUTO or len(others) > 1:
        return model
    return dataclasses.replace(model, attention_backend=others[0])
