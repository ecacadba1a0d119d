"""Checkpoints: exact, atomic, on any mesh, and of one model only."""

from __future__ import annotations

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from qtx.errors import QtxError
from qtx.models import Opt
from qtx.training import MeshConfig, load_params
from qtx.training.checkpoints import Checkpoints
from qtx.training.program import make_program
from qtx.training.sharding import make_mesh


@pytest.fixture(scope="module")
def program(module, data, training):
    return make_program(module, training, make_mesh(MeshConfig(1)), next(data.train(16, 0)))


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_state_and_data_position_come_back(tmp_path, program, data):
    state, iterator = program.init(np.uint32(1)), data.train(16, 0)
    for _ in range(3):
        next(iterator)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest_step() is None
        checkpoints.save(3, state, iterator)
    expected = next(iterator)
    fresh = data.train(16, 0)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest_step() == 3
        equal(checkpoints.restore(3, program.abstract_state, fresh), state)
    equal(next(fresh), expected)


def test_a_saved_state_may_be_overwritten_at_once(tmp_path, program, data):
    """The state is donated to the next update while its checkpoint is still being written."""
    batch = next(data.train(16, 0))
    state, seed = program.init(np.uint32(0)), np.uint32(0)
    saved = jax.tree.map(np.array, jax.device_get(state))
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, data.train(16, 0))
        for _ in range(5):
            state, _ = program.train_step(state, batch, seed)
        checkpoints.wait()
        equal(checkpoints.restore(1, program.abstract_state, data.train(16, 0)), saved)


def test_restored_to_another_mesh(tmp_path, program, module, data, training):
    state = program.init(np.uint32(1))
    other = make_program(module, training, make_mesh(MeshConfig(2, 2, 2)), next(data.train(16, 0)))
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, data.train(16, 0))
        checkpoints.wait()
        restored = checkpoints.restore(1, other.abstract_state, data.train(16, 0))
    equal(restored, state)
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, other.abstract_state)


def test_the_newest_stay(tmp_path, program, data):
    state, iterator = program.init(np.uint32(1)), data.train(16, 0)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state, iterator)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_an_incomplete_save_is_ignored_and_removed(tmp_path, program, data):
    state, iterator = program.init(np.uint32(1)), data.train(16, 0)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, state, iterator)
    # What a run killed while saving step 2 leaves: the temporary folder, without the mark of completion.
    incomplete = tmp_path / "2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "1", incomplete)
    for mark in incomplete.rglob("_CHECKPOINT_METADATA"):
        mark.unlink()
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest_step() == 1
        equal(checkpoints.restore(1, program.abstract_state, iterator), state)
    assert not incomplete.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 32}, r"parameter embeddings/positions/embedding is \(18, 16\) there and \(18, 32\)"),
        ({"num_layers": 2}, r"parameter layers/attention/key/bias is \(1, 16\) there and \(2, 16\)"),
    ],
)
def test_another_model_is_refused(tmp_path, program, model_config, data, training, changes, message):
    with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(1, program.init(np.uint32(0)), data.train(16, 0))
    other = Opt(dataclasses.replace(model_config, **changes))
    with pytest.raises(QtxError, match=message):
        load_params(other, data, tmp_path)
    wanted = make_program(other, training, make_mesh(MeshConfig(1)), next(data.train(16, 0))).abstract_state
    with Checkpoints(tmp_path / "checkpoints") as checkpoints, pytest.raises(QtxError, match=message):
        checkpoints.restore(1, wanted, data.train(16, 0))


@pytest.mark.parametrize(("create", "message"), [(False, "has no checkpoints"), (True, "no complete checkpoint yet")])
def test_nothing_to_load(tmp_path, module, data, create, message):
    if create:
        (tmp_path / "checkpoints").mkdir()
    with pytest.raises(QtxError, match=message):
        load_params(module, data, tmp_path)
