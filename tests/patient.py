"""A model that is really ill: the published encoder that comes with the package, and some English for it."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from qtx.builtin import builtin_checkpoint
from qtx.data import TextTokenizer, load_tokenizer
from qtx.families import build
from qtx.interop import load

SEQUENCES, LENGTH = 4, 32
DIMENSION = 99
"""Of its outliers: feed-forward outputs of about 194 and 91 in its two layers, in every sequence at [CLS]."""


class Patient(NamedTuple):
    """Its batches have four sequences of 32 tokens each, [CLS] and [SEP] included."""

    module: nn.Module
    params: Any
    tokenizer: TextTokenizer
    calibration: dict[str, np.ndarray]
    held_out: dict[str, np.ndarray]


def load_patient() -> Patient:
    """The text is its licence's, which never changes."""
    folder = builtin_checkpoint("minilm-2l")
    config, params = load(folder)
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode([(folder / "LICENSE").read_text()])[0]
    tokens = np.full((2 * SEQUENCES, LENGTH), tokenizer.end, np.int32)
    tokens[:, 0] = tokenizer.start
    tokens[:, 1:-1] = ids[: tokens[:, 1:-1].size].reshape(len(tokens), -1)
    return Patient(build(config), params, tokenizer, {"tokens": tokens[:SEQUENCES]}, {"tokens": tokens[SEQUENCES:]})
