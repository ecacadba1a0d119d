"""This module describes the embeddings that a model without a head is measured by."""

from __future__ import annotations

from pathlib import Path

from qtx.families.in_words import embedding_in_words
from qtx.foundation.errors import QtxError
from qtx.interop.carried import MODULES
from qtx.interop.sentence import read_modules
from qtx.models import TransformerConfig


def told_of_embeddings(config: TransformerConfig, original: Path) -> dict[str, str]:
    """Returns the line `embedding` of a summary, e.g. `mean, normalized`, with the original's further modules, which
    qtx does not compute; nothing for a model with a head.

    Args:
      config: the model's config.
      original: the folder of the checkpoint that the model was imported from; need not exist.
    """
    text = embedding_in_words(config)
    if not text:
        return {}
    if (original / MODULES).is_file():
        try:
            left_out = read_modules(original).left_out
        except QtxError as error:
            return {"embedding": f"{text}; not by the modules of the checkpoint: {error}"}
        text += f"; measured before {', '.join(left_out)}, which qtx does not compute" if left_out else ""
    return {"embedding": text}
