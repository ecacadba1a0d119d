"""A model and data so small that a training run takes a second, once compiled."""

from __future__ import annotations

import dataclasses

import pytest

from qtx.attention import AttentionConfig
from qtx.attention.normalizers import ClippedSoftmax
from qtx.data import DataConfig, load
from qtx.data.sources import BigramBackcopy
from qtx.models import Opt, OptConfig
from qtx.training import TrainingConfig


@pytest.fixture(scope="session")
def data():
    """Bigram-Backcopy of 16 tokens, with 20 held-out sequences: not a multiple of any batch size here."""
    full = load(DataConfig(BigramBackcopy(sequence_length=16)), "clm")
    return dataclasses.replace(full, held_out=[full.held_out[i] for i in range(20)])


@pytest.fixture(scope="session")
def model_config():
    """One layer with everything that could depend on the step or on chance: dropout, and a gamma that anneals."""
    attention = AttentionConfig(ClippedSoftmax(alpha=2.0, gamma_warmup_steps=6, length=16))
    shape = dict(num_layers=1, width=16, num_heads=2, mlp_width=32, vocab_size=64, max_length=16)
    return OptConfig(**shape, init_std=0.2, attention=attention)


@pytest.fixture(scope="session")
def module(model_config):
    return Opt(model_config)


@pytest.fixture(scope="session")
def training():
    """12 steps whose intervals do not divide each other.

    Epsilon is large, since AdamW turns a gradient of 1e-9 (rounding: a key bias has none) into a whole step.
    """
    intervals = dict(log_every=5, eval_every=4, outliers_every=4, checkpoint_every=3)
    return TrainingConfig(steps=12, batch_size=16, warmup_steps=2, learning_rate=1e-2, epsilon=1e-3, **intervals)
