"""Checkpoints: exact, atomic, on any mesh, and of one model only."""

from __future__ import annotations

import dataclasses
import errno
import gc
import math
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from qtx.foundation.errors import QtxError
from qtx.models import Opt
from qtx.training import MeshConfig, load_params
from qtx.training.checkpoints import Checkpoints, UnreadableCheckpoint
from qtx.training.program import make_program
from qtx.training.sharding import make_mesh

# Orbax leaves the reads of a damaged checkpoint to the garbage collector, which tells of their errors.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CONFIG = {"seed": 0, "training": {"steps": 3, "log_every": 1}, "mesh": {"data": 1}}


@pytest.fixture(scope="module", autouse=True)
def only_what_these_tests_make():
    """Is sought through for garbage: all that a test process holds takes a second each time."""
    gc.collect()
    gc.freeze()
    yield


@pytest.fixture(autouse=True)
def collected():
    """What a test left is told in it, and not in another."""
    yield
    gc.collect()


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
        checkpoints.save(3, state, iterator.get_state())
    expected = next(iterator)
    fresh = data.train(16, 0)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest_step() == 3
        _, restored, position, _ = checkpoints.restore(3, program.abstract_state)
    equal(restored, state)
    fresh.set_state(position)
    equal(next(fresh), expected)


@pytest.mark.slow
def test_a_saved_state_may_be_overwritten_at_once(tmp_path, program, data):
    """The state is donated to the next update while its checkpoint is still being written."""
    batch = next(data.train(16, 0))
    state, seed = program.init(np.uint32(0)), np.uint32(0)
    saved = jax.tree.map(np.array, jax.device_get(state))
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, {})
        for _ in range(5):
            state, _ = program.train_step(state, batch, seed)
        checkpoints.wait()
        equal(checkpoints.restore(1, program.abstract_state).state, saved)


@pytest.mark.slow
def test_restored_to_another_mesh(tmp_path, program, module, data, training):
    state = program.init(np.uint32(1))
    other = make_program(module, training, make_mesh(MeshConfig(2, 2, 2)), next(data.train(16, 0)))
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        restored = checkpoints.restore(1, other.abstract_state).state
    equal(restored, state)
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, other.abstract_state)


@pytest.mark.representative("1-2-*")
@pytest.mark.parametrize(
    ("keep", "keep_best", "scores", "left"),
    [
        (2, 0, [None, None, None], ["2", "3"]),
        (1, 1, [-3.0, -1.0, -2.0], ["2", "3"]),
        (1, 1, [-1.0, None, math.nan], ["1", "3"]),
        (1, 2, [5.0, 6.0, 4.0, 3.0], ["1", "2", "4"]),
        (1, 1, [2.0, 2.0, 1.0], ["2", "3"]),
    ],
)
def test_the_newest_and_the_best_stay(tmp_path, program, keep, keep_best, scores, left):
    state = program.init(np.uint32(1))
    with Checkpoints(tmp_path, keep, keep_best) as checkpoints:
        for step, score in enumerate(scores, start=1):
            checkpoints.save(step, state, {}, score=score)
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    with Checkpoints(tmp_path) as checkpoints:
        measured = [score for score in scores if score is not None and not math.isnan(score)]
        if measured and keep_best:
            assert scores[checkpoints.best_step() - 1] == max(measured)
            assert checkpoints.is_best(max(measured) + 1) and not checkpoints.is_best(max(measured))
        else:
            assert checkpoints.best_step() is None and checkpoints.is_best(0.0)


def test_an_incomplete_save_is_ignored_and_removed(tmp_path, program):
    state = program.init(np.uint32(1))
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, state, {})
    # What a run killed while saving step 2 leaves: the temporary folder, without the mark of completion.
    incomplete = tmp_path / "2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "1", incomplete)
    for mark in incomplete.rglob("_CHECKPOINT_METADATA"):
        mark.unlink()
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest_step() == 1
        equal(checkpoints.restore(1, program.abstract_state).state, state)
    assert not incomplete.exists()


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory, program):
    """Steps 1 and 2, and the two states on the host."""
    folder = tmp_path_factory.mktemp("checkpoints")
    states = program.init(np.uint32(1)), program.init(np.uint32(2))
    with Checkpoints(folder, keep=2) as checkpoints:
        for step, state in enumerate(states, start=1):
            checkpoints.save(step, state, {"next_index": step}, CONFIG)
    return folder, jax.device_get(states)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 0x55
    path.write_bytes(bytes(content))


def newest(folder, program):
    warnings = []
    with Checkpoints(folder, keep=2) as checkpoints:
        step, state, position, _ = checkpoints.restore_newest(program.abstract_state, CONFIG, warnings.append)
    return step, state, position, warnings


@pytest.mark.slow
@pytest.mark.parametrize("damage", [Path.unlink, truncate, flip], ids=["deleted", "truncated", "flipped"])
def test_whatever_file_is_damaged_the_state_is_one_that_was_saved(tmp_path, program, two_checkpoints, damage):
    """Whichever file of the newest: it is whole nevertheless, or told, set aside, and the one before it used."""
    folder, states = two_checkpoints
    files = sorted(path.relative_to(folder) for path in (folder / "2").rglob("*") if path.is_file())
    told = 0
    for index, file in enumerate(files):
        copy = tmp_path / str(index) / "checkpoints"
        shutil.copytree(folder, copy)
        damage(copy / file)
        step, state, position, warnings = newest(copy, program)
        equal(state, states[step - 1])
        assert position == {"next_index": step}
        aside = copy.parent / "damaged_checkpoints" / "2"
        assert (step == 1) == bool(warnings) == aside.exists() == (not (copy / "2").exists())
        if warnings:
            assert re.search(r"the checkpoint .*2 is damaged: .*trying the one before it", warnings[0]), warnings
            told += 1
    assert told >= 3


@pytest.mark.slow
def test_checkpoints_that_are_all_damaged_are_an_error(tmp_path, program, two_checkpoints):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_checkpoints[0], folder)
    for step in ("1", "2"):
        shutil.rmtree(folder / step / "state")
    with pytest.raises(QtxError, match=r"all checkpoints in .* are damaged \(2, 1\): restore them from a copy"):
        newest(folder, program)
    assert (folder / "1").exists() and (folder / "2").exists()


@pytest.mark.slow
def test_a_checkpoint_set_aside_leaves_its_step_free(tmp_path, program, two_checkpoints):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_checkpoints[0], folder)
    for _ in range(2):
        shutil.rmtree(folder / "2" / "state")
        with Checkpoints(folder, keep=2) as checkpoints:
            step, state, _, _ = checkpoints.restore_newest(program.abstract_state, CONFIG, lambda text: None)
            assert step == 1
            checkpoints.save(2, state, {"next_index": 2}, CONFIG)
        assert newest(folder, program)[0] == 2
    assert sorted(path.name for path in (tmp_path / "damaged_checkpoints").iterdir()) == ["2", "2.1"]


def test_a_checkpoint_of_another_config_is_refused(program, two_checkpoints):
    other = {"seed": 7, "training": {"steps": 9}, "mesh": {"data": 2}}
    with (
        Checkpoints(two_checkpoints[0]) as checkpoints,
        pytest.raises(QtxError, match=r"of another config: seed \(0 there, 7 here\), training.steps \(3 there, 9"),
    ):
        checkpoints.restore_newest(program.abstract_state, other, print)


@pytest.mark.representative("changes0-*")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 32}, r"parameter embeddings/positions/embedding is \(18, 16\) there and \(18, 32\)"),
        ({"num_layers": 2}, r"parameter layers/attention/key/bias is \(1, 16\) there and \(2, 16\)"),
    ],
)
def test_another_model_is_refused(tmp_path, program, model_config, data, training, changes, message):
    with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(1, program.init(np.uint32(0)), {})
    other = Opt(dataclasses.replace(model_config, **changes))
    with pytest.raises(QtxError, match=message):
        load_params(other, data, tmp_path)
    wanted = make_program(other, training, make_mesh(MeshConfig(1)), next(data.train(16, 0))).abstract_state
    with Checkpoints(tmp_path / "checkpoints") as checkpoints, pytest.raises(QtxError, match=message):
        checkpoints.restore(1, wanted)


@pytest.mark.parametrize(("create", "message"), [(False, "has no checkpoints"), (True, "no complete checkpoint yet")])
def test_nothing_to_load(tmp_path, module, data, create, message):
    if create:
        (tmp_path / "checkpoints").mkdir()
    with pytest.raises(QtxError, match=message):
        load_params(module, data, tmp_path)


@pytest.mark.representative("1-no*")
@pytest.mark.parametrize(
    ("which", "step"),
    [("newest", 3), ("best", 2), ("2", 2), ("1", r"no checkpoint '1': expected newest, best or one of \[2, 3\]")],
)
def test_which_checkpoint_is_loaded(tmp_path, program, module, data, which, step):
    with Checkpoints(tmp_path / "checkpoints", keep=1, keep_best=1) as checkpoints:
        for number, score in ((1, -3.0), (2, -1.0), (3, -2.0)):
            checkpoints.save(number, program.init(np.uint32(number)), {}, score=score)
    if isinstance(step, str):
        with pytest.raises(QtxError, match=step):
            load_params(module, data, tmp_path, MeshConfig(1), which)
    else:
        params = load_params(module, data, tmp_path, MeshConfig(1), which)
        equal(params, program.init(np.uint32(step)).params)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_not_loaded(tmp_path, program, module, data):
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, program.init(np.uint32(step)), {})
    shutil.rmtree(tmp_path / "checkpoints" / "2" / "state")
    with pytest.raises(QtxError, match=r"is damaged: .*; choose another with --checkpoint=1"):
        load_params(module, data, tmp_path, MeshConfig(1))
    equal(load_params(module, data, tmp_path, MeshConfig(1), "1"), program.init(np.uint32(1)).params)


# What keeps a whole checkpoint from being read, and what it is told as.
TROUBLES = {
    "input/output": (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    "too many files": (ValueError("INTERNAL: open [OS error 24: Too many open files]"), "Too many open files"),
    "stale": (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle"),
    "permissions": (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
    "memory": (MemoryError("12 GB"), "out of memory"),
    "device memory": (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes."), "out of memory"),
}


def failing(monkeypatch, error: Exception, times: int) -> None:
    """Makes the next reads of states fail."""
    original, left = ocp.CheckpointManager.restore, [times]

    def restore(self, step, args=None):
        if args is not None and "state" in args.keys() and left[0]:
            left[0] -= 1
            raise ValueError("storage") from error
        return original(self, step, args=args)

    monkeypatch.setattr(ocp.CheckpointManager, "restore", restore)


@pytest.mark.slow
@pytest.mark.parametrize("name", TROUBLES)
def test_what_only_cannot_be_read_is_not_set_aside(name, monkeypatch, tmp_path, program, two_checkpoints):
    error, told = TROUBLES[name]
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_checkpoints[0], folder)
    with monkeypatch.context() as patch:
        failing(patch, error, times=9)
        with pytest.raises(UnreadableCheckpoint, match=f"cannot read the checkpoint .*2: {told}.* left as it is"):
            newest(folder, program)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]
    step, _, _, warnings = newest(folder, program)
    assert (step, warnings) == (2, [])


def test_what_passes_at_the_second_attempt_is_whole(monkeypatch, tmp_path, program, two_checkpoints):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_checkpoints[0], folder)
    failing(monkeypatch, KeyError("a race"), times=1)
    step, _, _, warnings = newest(folder, program)
    assert (step, warnings) == (2, [])


def test_a_position_that_is_not_what_was_saved_is_damage(tmp_path, program, two_checkpoints):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_checkpoints[0], folder)
    (file,) = (folder / "2").rglob("progress/metadata")
    changed = file.read_text().replace('"next_index": 2', '"next_index": 7')
    assert changed != file.read_text()
    file.write_text(changed)
    step, _, position, warnings = newest(folder, program)
    assert (step, position) == (1, {"next_index": 1}) and "checksum does not fit" in warnings[0]


@pytest.mark.slow
def test_a_checkpoint_saved_again_takes_the_place_of_the_first(tmp_path, program):
    states = program.init(np.uint32(1)), program.init(np.uint32(2))
    for state, score, pending in zip(states, (None, 3.0), (["evaluation"], []), strict=True):
        with Checkpoints(tmp_path, keep=2) as checkpoints:
            checkpoints.save(5, state, {"next_index": 5}, CONFIG, score, pending)
        with Checkpoints(tmp_path, keep=2) as checkpoints:
            restored = checkpoints.restore_newest(program.abstract_state, CONFIG, print)
            assert (restored.step, restored.pending) == (5, tuple(pending))
            equal(restored.state, state)
            assert checkpoints.best_step() == (None if score is None else 5)
