"""One update: accumulation, dropout keys, the metrics window."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from qtx.models import Opt
from qtx.training import MeshConfig
from qtx.training.program import make_program
from qtx.training.sharding import make_mesh, shard_global_batch
from qtx.training.step import BadSteps

SEED = np.uint32(3)


@pytest.fixture(scope="module")
def batch(data):
    """16 sequences of which a few tokens have no weight, unevenly, as in a padded batch."""
    batch = dict(next(data.train(16, 0)))
    batch["weights"] = np.where(np.random.default_rng(0).random(batch["weights"].shape) < 0.3, 0, batch["weights"])
    batch["weights"][:5] = 0
    return batch


@pytest.fixture(scope="module")
def without_dropout(model_config):
    return Opt(dataclasses.replace(model_config, dropout=0.0, attention_dropout=0.0))


def run(module, training, batch, *, mesh=(1, 1, 1), updates=1):
    mesh = make_mesh(MeshConfig(*mesh))
    program = make_program(module, training, mesh, batch)
    state = program.init(SEED)
    for _ in range(updates):
        state, numbers = program.train_step(state, shard_global_batch(mesh, batch), SEED)
    return jax.device_get((state, numbers))


@pytest.mark.slow
def test_accumulation_is_the_big_batch(without_dropout, training, batch):
    """Four parts on two devices: the weights differ from part to part, and so would a mean of means."""
    whole, numbers = run(without_dropout, training, batch, updates=2)
    accumulating = dataclasses.replace(training, accumulation_steps=4)
    state, same_numbers = run(without_dropout, accumulating, batch, updates=2, mesh=(2, 1, 1))
    np.testing.assert_allclose(same_numbers["grad_norm"], numbers["grad_norm"], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state.window, whole.window)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, whole.params)


@pytest.mark.slow
def test_the_gradient_is_that_of_the_mean_over_predictions(without_dropout, training, batch):
    """Doubling every weight changes nothing: the normalizer is the weights' sum, not their number."""
    _, numbers = run(without_dropout, training, batch)
    _, doubled = run(without_dropout, training, batch | {"weights": batch["weights"] * 2})
    np.testing.assert_allclose(doubled["grad_norm"], numbers["grad_norm"], rtol=1e-6)


@pytest.mark.slow
def test_a_batch_without_predictions_changes_nothing_but_decay(without_dropout, training, batch):
    state, numbers = run(without_dropout, training, batch | {"weights": np.zeros_like(batch["weights"])})
    assert numbers["grad_norm"] == 0 and state.bad.last == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


@pytest.mark.slow
def test_dropout_is_a_function_of_seed_and_step(module, training, batch):
    """The learning rate of update 0 is 0: the same parameters meet another dropout mask in update 1."""
    first, _ = run(module, training, batch)
    again, _ = run(module, training, batch)
    second, _ = run(module, training, batch, updates=2)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert second.window["loss"] - first.window["loss"] != first.window["loss"]


@pytest.mark.slow
def test_the_window_starts_afresh_after_a_log_line(without_dropout, training, batch):
    state, _ = run(without_dropout, training, batch, updates=5)
    np.testing.assert_allclose(state.window["weight"], 5 * batch["weights"].sum())
    state, _ = run(without_dropout, training, batch, updates=6)
    assert state.step == 6
    np.testing.assert_allclose(state.window["weight"], batch["weights"].sum())


@pytest.mark.slow
def test_a_window_of_a_million_million_predictions_still_counts(without_dropout, training, batch):
    """float32's next number after 10^12 is 65,536 away; a batch has some two hundred predictions."""
    mesh = make_mesh(MeshConfig(1))
    program = make_program(without_dropout, dataclasses.replace(training, log_every=1000), mesh, batch)
    good, state = shard_global_batch(mesh, batch), program.init(SEED)
    state, _ = program.train_step(state, good, SEED)
    full = jax.tree.map(lambda x: np.float32(x + 1e12), jax.device_get(state.window))
    state = dataclasses.replace(state, window=jax.device_put(full, state.step.sharding))
    for _ in range(20):
        state, _ = program.train_step(state, good, SEED)
    counted = float(state.window["weight"]) - float(full["weight"]) + float(state.lost["weight"])
    assert counted == 20 * batch["weights"].sum()


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 3])
def test_bad_steps_change_nothing(without_dropout, training, batch, limit):
    """Up to the limit they count as steps; from there on the state is frozen, whatever comes."""
    mesh = make_mesh(MeshConfig(1))
    program = make_program(without_dropout, dataclasses.replace(training, max_bad_steps=limit), mesh, batch)
    good = shard_global_batch(mesh, batch)
    bad = shard_global_batch(mesh, batch | {"weights": np.full_like(batch["weights"], np.nan)})
    state, _ = program.train_step(program.init(SEED), good, SEED)
    assert state.bad.last == 0 and state.bad.total == 0
    before = jax.device_get((state.params, state.opt_state, state.window))
    for step in range(2, 2 + limit):
        state, numbers = program.train_step(state, bad, SEED)
        assert jax.device_get((state.bad.last, state.bad.in_a_row)) == (step, step - 1)
        assert not np.isfinite(numbers["grad_norm"])
    for _ in range(2):
        state, _ = program.train_step(state, good, SEED)
        assert jax.device_get((state.step, state.bad.last, state.bad.in_a_row)) == (limit, limit + 1, limit)
        jax.tree.map(np.testing.assert_array_equal, before, (state.params, state.opt_state, state.window))


@pytest.mark.slow
def test_a_good_step_ends_a_row_of_bad_ones(without_dropout, training, batch):
    mesh = make_mesh(MeshConfig(1))
    program = make_program(without_dropout, dataclasses.replace(training, max_bad_steps=2), mesh, batch)
    good = shard_global_batch(mesh, batch)
    bad = shard_global_batch(mesh, batch | {"weights": np.full_like(batch["weights"], np.nan)})
    state = program.init(SEED)
    for given in (bad, good, bad, good):
        state, _ = program.train_step(state, given, SEED)
    assert jax.device_get((state.step, state.bad)) == (4, BadSteps(last=3, in_a_row=0, total=2))
