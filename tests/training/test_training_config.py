"""Training options that cannot be meant."""

from __future__ import annotations

import pytest

from qtx.foundation.errors import QtxError
from qtx.training import MeshConfig, TrainingConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"log_every": 0}, "log_every is 0"),
        ({"eval_every": -1}, "eval_every is -1"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"keep_checkpoints": 0}, "keep_checkpoints is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0: expected a positive"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"final_learning_rate": 2.0}, "final_learning_rate 2.0 exceeds the peak"),
        ({"initial_learning_rate": 2.0}, "initial_learning_rate 2.0 exceeds the peak"),
        ({"beta1": 1.0}, "beta1 is 1.0"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0: expected a positive number, or None"),
        ({"clip_weights": 1.0}, "clip_weights is 1.0: expected more than 1, or None"),
        ({"clip_weights": float("inf")}, "clip_weights is inf: expected more than 1, or None"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"steps": 50, "warmup_steps": 50}, "expected fewer than steps 50"),
        ({"batch_size": 30, "accumulation_steps": 4}, "set batch_size to 32"),
    ],
)
def test_refused_training_options(options, message):
    with pytest.raises(QtxError, match=message):
        TrainingConfig(**options)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (-1, -1, 1), (1, -2, 1)])
def test_refused_meshes(sizes):
    with pytest.raises(QtxError, match="expected positive sizes, or one of them -1"):
        MeshConfig(*sizes)
