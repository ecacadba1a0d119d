"""A contrastive objective from outside, the documented one, whose loss compares the examples of a batch."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from qtx.data import OBJECTIVES, SOURCES, Data, DataConfig, load
from qtx.experiment import default, read
from qtx.families import FAMILIES
from qtx.foundation.errors import QtxError
from qtx.quantization.qat.noise import NoisyModel
from qtx.training import MeshConfig, RunFolder, TrainingConfig, fit, read_metrics
from qtx.training.loop import Task
from qtx.training.program import make_program
from qtx.training.run_folder import Claim
from qtx.training.sharding import make_mesh, shard_global_batch
from tests.strangers import documented

DOCUMENTED = documented("adding-a-variant.md")
LOSS = DOCUMENTED["InfoNce"](temperature=0.5)
# The trace of SGD with momentum is, after one update, the gradient.
TRAINING = TrainingConfig(steps=9, batch_size=8, optimizer="sgd", warmup_steps=1, weight_decay=0.0, clip_norm=None)


class Towers(nn.Module):
    """Two linear maps into one space."""

    @nn.compact
    def __call__(self, batch, train=False, step=0):
        return tuple(nn.Dense(3, use_bias=False, name=name)(batch[name]) for name in ("first", "second"))


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Pairs whose second half is the first one in other coordinates, with some noise."""

    @staticmethod
    def serves(objective):
        return isinstance(objective, DOCUMENTED["Pairs"])

    def load(self, objective):
        rng = np.random.default_rng(0)
        first, turned, noise = rng.normal(size=(72, 4)), rng.normal(size=(4, 5)), rng.normal(size=(72, 5))
        rows = np.hstack([first, first @ turned + 0.1 * noise]).astype(np.float32)

        def example(row, rng):
            return {"first": row[:4], "second": row[4:], "weights": np.float32(1)}

        return Data("pairs", rows[:64], rows[64:], example)


@pytest.fixture
def pairs(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "pairs", DOCUMENTED["Pairs"]())
    monkeypatch.setitem(SOURCES, "pairs", Drawn)


def info_nce(first, second, kernels, temperature):
    """The mean over the pairs and both directions, one by one, in float64."""
    outputs = [x.astype(np.float64) @ kernel for x, kernel in zip((first, second), kernels, strict=True)]
    a, b = ([y / np.linalg.norm(y) for y in of_all] for of_all in outputs)
    losses = []
    for i in range(len(a)):
        for ours, theirs in ((a, b), (b, a)):
            scores = np.exp([ours[i] @ other / temperature for other in theirs])
            losses.append(-np.log(scores[i] / scores.sum()))
    return np.mean(losses)


def slopes(function, x, width=1e-5):
    """The gradient of a function of `x`, by differences."""
    found = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[place] = width
        found[place] = (function(x + moved) - function(x - moved)) / (2 * width)
    return found


@pytest.mark.representative("2")
@pytest.mark.parametrize("devices", [1, 2])
def test_loss_and_gradient_of_a_step_are_those_of_all_pairs(devices):
    """Also where devices share the batch; but what fills it up does not count."""
    rng = np.random.default_rng(0)
    batch = {name: rng.normal(size=(8, n)).astype(np.float32) for name, n in (("first", 4), ("second", 5))}
    batch["weights"] = np.array([1, 1, 0, 1, 1, 1, 1, 0], np.float32)
    mesh = make_mesh(MeshConfig(devices))
    program = make_program(Towers(), TRAINING, mesh, batch, LOSS)
    state = program.init(np.uint32(0))
    kernels = [np.asarray(state.params[name]["kernel"], np.float64) for name in ("first", "second")]
    state, _ = program.train_step(state, shard_global_batch(mesh, batch), np.uint32(0))

    real = [batch[name][batch["weights"] > 0] for name in ("first", "second")]
    loss = info_nce(*real, kernels, 0.5)
    assert float(state.window["loss"]) / 6 == pytest.approx(loss, rel=1e-5) and float(state.window["weight"]) == 6
    traces = [np.asarray(x) for x in jax.tree.leaves(state.opt_state) if x.ndim]
    expected = [
        slopes(lambda kernel: info_nce(*real, [kernel, kernels[1]], 0.5), kernels[0]),
        slopes(lambda kernel: info_nce(*real, [kernels[0], kernel], 0.5), kernels[1]),
    ]
    for found, wanted in zip(traces, expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.slow
def test_a_registered_objective_is_learned(pairs, tmp_path):
    """Thirty steps halve the loss, and the held-out loss is that of all held-out pairs, which are half a batch."""
    data, loss = load(DataConfig(Drawn()), "pairs"), OBJECTIVES["pairs"].for_model(None).loss
    training = TrainingConfig(steps=30, batch_size=16, warmup_steps=1, learning_rate=0.05, log_every=10, eval_every=30)
    task = Task(Towers(), data, loss=loss)
    result = fit(task, training, Claim(RunFolder(tmp_path), {}), make_mesh(MeshConfig(1)))
    losses = [line["loss"] for line in read_metrics(tmp_path, "train")]
    assert losses[-1] < 0.5 * losses[0] and result.metrics["predictions"] == 8
    found = jax.device_get(result.params)
    held_out = [data.held_out[:, :4], data.held_out[:, 4:]]
    expected = info_nce(*held_out, [found[name]["kernel"] for name in ("first", "second")], loss.temperature)
    assert result.metrics["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("option", "value", "remedy"), [("training.accumulation_steps", 2, "1"), ("qat.noise", "w8a8", "''")]
)
def test_batches_in_parts_are_refused(pairs, monkeypatch, option, value, remedy):
    """An experiment's config refuses them, and so does a training step that is made without one."""
    monkeypatch.setitem(FAMILIES, "bert", dataclasses.replace(FAMILIES["bert"], objectives=("pairs",)))
    config = default("bert")
    assert read(config).objective == "pairs"
    config.update_from_flattened_dict({option: value})
    message = f"{option} computes a batch in parts, but the loss InfoNce compares .*: set {option} to {remedy}"
    with pytest.raises(QtxError, match=message):
        read(config)
    training, module = dataclasses.replace(TRAINING, accumulation_steps=2), Towers()
    if option == "qat.noise":
        training, module = TRAINING, NoisyModel(module, (), (), ())
    batch = next(iter(Drawn().load(None).evaluation(8)))
    with pytest.raises(QtxError, match=message):
        make_program(module, training, make_mesh(MeshConfig(1)), batch, LOSS)
