"""Whole runs: what they log, and that interruptions leave no trace."""

from __future__ import annotations

import dataclasses
import gc
import gzip
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.foundation.errors import Preempted, QtxError
from qtx.training import (
    Claim,
    MeshConfig,
    RunFolder,
    Task,
    Watch,
    evaluate,
    fit,
    load_params,
    make_mesh,
    read_metrics,
)
from qtx.training.bad_steps import read_batch
from qtx.training.checkpoints import Checkpoints

from .interruption import InterruptedData, Interruption

CONFIG = {"seed": 7, "model": {"width": 16}}
TIMES = ("examples_per_second", "tokens_per_second")


@pytest.fixture(scope="module")
def run(module, data, training):
    def run(workdir, data=data, config=CONFIG, training=training, seed=7, mesh=(1,), **watched):
        claim, devices = Claim(RunFolder(workdir), config), make_mesh(MeshConfig(*mesh))
        return fit(Task(module, data, seed), training, claim, devices, Watch(**watched))

    return run


def parameter_norm(params, batch, step):
    assert batch["tokens"].shape == (16, 16)
    return {"norm": float(jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(params))))}, None


@pytest.fixture(scope="module")
def unbroken(run, tmp_path_factory):
    return run(tmp_path_factory.mktemp("unbroken"), monitor=parameter_norm)


def without_times(workdir):
    lines = read_metrics(workdir)
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


@pytest.mark.slow
def test_what_is_logged_when(unbroken):
    lines = read_metrics(unbroken.workdir)
    splits = ("train", "eval", "monitor")
    steps = {split: [line["step"] for line in lines if line["split"] == split] for split in splits}
    assert steps == {"train": [5, 10, 12], "eval": [4, 8, 12], "monitor": [0, 4, 8, 12]}
    train = read_metrics(unbroken.workdir, "train")
    assert set(train[-1]) == {"step", "split", "loss", "accuracy", "learning_rate", "grad_norm", *TIMES}
    assert train[0]["learning_rate"] == pytest.approx(1e-2 * 8 / 10)  # of update 4, 2 after the warm-up's 2
    assert train[-1]["tokens_per_second"] == pytest.approx(16 * train[-1]["examples_per_second"])
    assert (unbroken.workdir / "config.json").is_file() and any((unbroken.workdir / "tensorboard").iterdir())


def test_it_learns(unbroken):
    losses = [line["loss"] for line in read_metrics(unbroken.workdir, "eval")]
    assert losses[-1] < losses[0] < math.log(64) + 0.5
    assert unbroken.metrics["loss"] == losses[-1]


@pytest.mark.slow
def test_logged_evaluation_is_that_of_the_saved_parameters(unbroken, module, data):
    params = load_params(module, data, unbroken.workdir, MeshConfig(1))
    jax.tree.map(np.testing.assert_array_equal, params, unbroken.params)
    # 20 sequences in batches of 8, the last one padded, against batches of 16 in the run.
    metrics = evaluate(lambda batch: module.apply({"params": params}, batch), data.evaluation(8))
    assert metrics["predictions"] == unbroken.metrics["predictions"]
    assert metrics["loss"] == pytest.approx(unbroken.metrics["loss"], rel=1e-6)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]), rel=1e-12)


@pytest.mark.representative("stops1")
@pytest.mark.parametrize("stops", [(0,), (1,), (4,), (6,), (11,), (2, 5, 7, 10)])
def test_interruptions_leave_no_trace(run, unbroken, data, tmp_path, stops):
    """Stopped before update `stop + 1` (checkpoints are at 3, 6, 9 and 12), once or again and again."""
    for stop in stops:
        with pytest.raises(Interruption):
            run(tmp_path, data=InterruptedData(data, stop), monitor=parameter_norm)
    result = run(tmp_path, monitor=parameter_norm)
    jax.tree.map(np.testing.assert_array_equal, result.params, unbroken.params)
    assert result.metrics == unbroken.metrics
    assert without_times(tmp_path) == without_times(unbroken.workdir)


def test_a_finished_run_returns_at_once(run, unbroken, data):
    before = (unbroken.workdir / "metrics.jsonl").read_bytes()
    again = run(unbroken.workdir, data=InterruptedData(data, 1))
    assert again.step == 12 and again.metrics == unbroken.metrics
    jax.tree.map(np.testing.assert_array_equal, again.params, unbroken.params)
    assert (unbroken.workdir / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh(run, unbroken, data, tmp_path):
    with pytest.raises(Interruption):
        run(tmp_path, data=InterruptedData(data, 8))
    result = run(tmp_path, mesh=(2, 2, 2))
    assert result.metrics["loss"] == pytest.approx(unbroken.metrics["loss"], rel=1e-5)


@pytest.mark.slow
def test_another_seed_is_another_run(run, unbroken, tmp_path):
    assert run(tmp_path, seed=8).metrics["loss"] != unbroken.metrics["loss"]


def test_the_folder_of_another_config_is_refused(run, unbroken):
    with pytest.raises(QtxError, match=r"another config: model.width \(16 there, 32 here\)"):
        run(unbroken.workdir, config={"seed": 7, "model": {"width": 32}})


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range(run, tmp_path, seed):
    with pytest.raises(QtxError, match="expected an integer from 0"):
        run(tmp_path, seed=seed)
    assert not any(tmp_path.iterdir())


class PoisonedData(InterruptedData):
    """The data, whose batches of the given steps (from 1) have an infinite loss."""

    def __init__(self, data, steps, stop=None):
        super().__init__(data, stop)
        self._steps = steps

    def train(self, *args):
        iterator, steps, stop = self._data.train(*args), self._steps, self._stop

        class Poisoned(type(iterator)):
            def __next__(self):
                if self.get_state()["next_index"] == stop:
                    raise Interruption
                batch = super().__next__()
                bad = self.get_state()["next_index"] in steps
                return batch | {"weights": np.full_like(batch["weights"], np.inf)} if bad else batch

        iterator.__class__ = Poisoned
        return iterator


@pytest.mark.slow
def test_a_bad_step_stops_the_run(run, data, tmp_path, unbroken):
    """With the state before it, its batch, and the log up to it; and again, when started again."""
    for _ in range(2):
        with pytest.raises(QtxError, match="not finite at step 8: .*is checkpoint 7, its batch is .*learning_rate"):
            run(tmp_path, data=PoisonedData(data, {8}))
        assert max(line["step"] for line in read_metrics(tmp_path)) == 5
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() == 7
    kept = read_batch(tmp_path / "bad_steps" / "step_8.npz")
    iterator = data.train(16, 7)
    iterator.set_state({"next_index": 7})
    np.testing.assert_array_equal(kept["tokens"], next(iterator)["tokens"])
    assert np.isinf(kept["weights"]).all()
    # The state that was kept is the one before the bad batch: with that batch mended, nothing shows.
    result = run(tmp_path, monitor=parameter_norm)
    jax.tree.map(np.testing.assert_array_equal, result.params, unbroken.params)


@pytest.mark.slow
def test_bad_steps_are_skipped_up_to_a_number(run, data, training, tmp_path, capsys):
    def lenient(limit):
        return dataclasses.replace(training, max_bad_steps=limit)

    poisoned = PoisonedData(data, {2, 7, 8, 9})
    with pytest.raises(QtxError, match="not finite at step 9, the last of 3 in a row"):
        run(tmp_path, data=poisoned, training=lenient(3))
    assert "step 2: update skipped (1 in this run)" in capsys.readouterr().err
    result = run(tmp_path, data=poisoned, training=lenient(4))
    assert result.step == 12 and np.isfinite(result.metrics["loss"])
    lines = read_metrics(tmp_path, "train")
    assert [line["skipped_steps"] for line in lines] == [1, 4, 4]
    assert all(np.isfinite(line["loss"]) for line in lines)
    # The schedule waits for those that were skipped: update 12 has the rate of update 8.
    assert lines[-1]["learning_rate"] == pytest.approx(1e-2 * (10 - (7 - 2)) / 10)
    unbroken = run(tmp_path / "unbroken", data=poisoned, training=lenient(4))
    jax.tree.map(np.testing.assert_array_equal, result.params, unbroken.params)


@pytest.mark.slow
def test_a_second_run_in_the_folder_is_refused(run, data, tmp_path):
    with RunFolder(tmp_path).lock(), pytest.raises(QtxError, match="another process is training in"):
        run(tmp_path)
    with pytest.raises(Interruption):
        run(tmp_path, data=InterruptedData(data, 4))
    with RunFolder(tmp_path).lock():  # it gave the folder back
        pass


class TerminatedData(InterruptedData):
    """The data; the process gets SIGTERM when its training iterator gives batch number `stop`."""

    def train(self, *args):
        iterator, stop = self._data.train(*args), self._stop

        class Terminating(type(iterator)):
            def __next__(self):
                if self.get_state()["next_index"] == stop:
                    signal.raise_signal(signal.SIGTERM)
                return super().__next__()

        iterator.__class__ = Terminating
        return iterator


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3, 7])
def test_sigterm_saves_and_leaves_no_trace(run, unbroken, data, tmp_path, stop):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match=f"SIGTERM after step {stop + 1} of 12, which is saved"):
        run(tmp_path, data=TerminatedData(data, stop), monitor=parameter_norm)
    assert signal.getsignal(signal.SIGTERM) is handler
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() == stop + 1
    result = run(tmp_path, monitor=parameter_norm)
    jax.tree.map(np.testing.assert_array_equal, result.params, unbroken.params)
    assert without_times(tmp_path) == without_times(unbroken.workdir)


class TerminatedEvaluation(InterruptedData):
    """The data; the process gets SIGTERM before batch number `stop` of all evaluations together, counted from 0."""

    def __init__(self, data, stop):
        super().__init__(data, 10**9)
        self.asked, self.last = 0, stop

    def evaluation(self, *args):
        for batch in self._data.evaluation(*args):
            if self.asked == self.last:
                signal.raise_signal(signal.SIGTERM)
            self.asked += 1
            yield batch


# Two batches an evaluation, after the one that the monitor sees: at steps 4, 8 and 12.
@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 6])
def test_sigterm_during_an_evaluation_gives_it_up_and_leaves_no_trace(run, unbroken, data, tmp_path, stop):
    """The evaluation is left to the run that goes on; its best checkpoint, too, is that of the unbroken run."""
    poisoned = TerminatedEvaluation(data, stop)
    with pytest.raises(Preempted, match="SIGTERM after step [48]|12 of 12, which is saved"):
        run(tmp_path, data=poisoned, monitor=parameter_norm)
    assert poisoned.asked <= stop + 2  # at most what was being read ahead
    result = run(tmp_path, monitor=parameter_norm)
    jax.tree.map(np.testing.assert_array_equal, result.params, unbroken.params)
    assert without_times(tmp_path) == without_times(unbroken.workdir)
    best = []
    for folder in (tmp_path, unbroken.workdir):
        with Checkpoints(folder / "checkpoints") as checkpoints:
            best.append(checkpoints.best_step())
    assert best[0] == best[1]


@pytest.mark.slow
def test_an_evaluation_takes_as_many_batches_as_asked(run, training, tmp_path):
    result = run(tmp_path, training=dataclasses.replace(training, eval_batches=1))
    assert result.metrics["predictions"] == 16 * 16  # of 20 sequences of 16 tokens


@pytest.mark.slow
@pytest.mark.parametrize("lowered", [1, 2])
def test_a_limit_of_bad_steps_may_be_lowered(run, data, training, tmp_path, lowered):
    """What was tolerated is over: the run goes on, and ends at the next bad step that is one too many."""
    tolerant = dataclasses.replace(training, max_bad_steps=4, checkpoint_every=3)
    with pytest.raises(Interruption):
        run(tmp_path, data=PoisonedData(data, {2, 3}, stop=3), training=tolerant)
    strict = dataclasses.replace(tolerant, max_bad_steps=lowered)
    with pytest.raises(QtxError, match="not finite at step 4"):
        run(tmp_path, data=PoisonedData(data, {2, 3, 4}), training=strict)
    assert run(tmp_path, training=strict).step == 12


@pytest.mark.slow
def test_the_best_checkpoint_stays(run, unbroken, data, training, tmp_path):
    """The held-out accuracy is best at some evaluation, whatever `checkpoint_every`."""
    rare = dataclasses.replace(
        training, checkpoint_every=12, eval_every=1, keep_checkpoints=1, best_metric="accuracy", learning_rate=0.3
    )
    run(tmp_path, training=rare)
    accuracies = {line["step"]: line["accuracy"] for line in read_metrics(tmp_path, "eval")}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        best = checkpoints.best_step()
    assert accuracies[best] == max(accuracies.values()) and best < 12


# Orbax leaves the reads of a damaged checkpoint to the garbage collector, which tells of their errors.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_told_and_the_one_before_used(run, unbroken, data, tmp_path, capsys):
    with pytest.raises(Interruption):
        run(tmp_path, data=InterruptedData(data, 10), monitor=parameter_norm)
    shutil.rmtree(tmp_path / "checkpoints" / "9" / "state")
    result = run(tmp_path, monitor=parameter_norm)
    gc.collect()
    assert re.search("warning: the checkpoint .*9 is damaged: .*trying the one before", capsys.readouterr().err)
    jax.tree.map(np.testing.assert_array_equal, result.params, unbroken.params)
    assert without_times(tmp_path) == without_times(unbroken.workdir)


class FullDisk(InterruptedData):
    """The data; no file may grow beyond `size` bytes any more when the iterator gives batch number `stop`."""

    def __init__(self, data, stop, size):
        super().__init__(data, stop)
        self._size = size

    def train(self, *args):
        iterator, stop, size = self._data.train(*args), self._stop, self._size

        class Filling(type(iterator)):
            def __next__(self):
                if self.get_state()["next_index"] == stop:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
                return super().__next__()

        iterator.__class__ = Filling
        return iterator


@pytest.mark.slow
def test_a_full_disk_for_the_log_is_told_and_costs_nothing(run, unbroken, training, data, tmp_path):
    """What the kernel refuses here is a file that is too big: a disk that is full fails in the same calls."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    without_checkpoints = dataclasses.replace(training, checkpoint_every=12, keep_best=0)
    try:
        with pytest.raises(QtxError, match="cannot log to .* intact: make room, and the same command goes on"):
            run(tmp_path, data=FullDisk(data, 7, 300), training=without_checkpoints, monitor=parameter_norm)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    result = run(tmp_path, monitor=parameter_norm)
    jax.tree.map(np.testing.assert_array_equal, result.params, unbroken.params)
    assert without_times(tmp_path) == without_times(unbroken.workdir)


@pytest.mark.slow
def test_a_full_disk_for_a_checkpoint_is_told_and_costs_nothing(tmp_path):
    """In a process of its own: Orbax leaves threads and tasks behind."""

    def train(limit):
        config = Path(__file__).parents[1] / "nano_config.py"
        # The first checkpoint, at step 4, is the best so far; its largest file has 22 kB.
        limited = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        limited += "from qtx.cli.main import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", limited, "train", f"--config={config}", f"--workdir={tmp_path}"]
        command += ["--config.training.steps=6", "--config.training.checkpoint_every=5"]
        # Compiled programs are kept on the full disk too, as they are for a user.
        own = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
        own["XDG_CACHE_HOME"] = str(tmp_path / "caches")
        return subprocess.run(command, cwd=Path(__file__).parents[2], env=own, capture_output=True, text=True)

    refused = train(15_000)
    assert refused.returncode == 2
    lines = refused.stderr.strip().splitlines()
    assert len(lines) == 1 and re.search("cannot write a checkpoint to .* intact: make room", lines[0]), refused.stderr
    done = train(resource.RLIM_INFINITY)
    assert done.returncode == 0 and "trained 6 steps" in done.stdout
    assert [line["step"] for line in read_metrics(tmp_path, "train")] == [2, 4, 6]


@pytest.mark.slow
def test_a_profile(run, tmp_path):
    run(tmp_path, profile=True)
    traces = sorted(path.name for path in (tmp_path / "profile").rglob("*") if path.is_file())
    assert any(name.endswith(".xplane.pb") for name in traces)
    with gzip.open(next((tmp_path / "profile").rglob("perfetto_trace.json.gz"))) as file:
        assert json.load(file)


@pytest.mark.slow
def test_a_monitor_warns(run, tmp_path, capsys):
    def monitor(params, batch, step):
        return {"dead_row_share": 0.9}, "attention is dead" if step == 0 else None

    run(tmp_path, monitor=monitor)
    lines = read_metrics(tmp_path, "monitor")
    assert [line.get("warning") for line in lines] == ["attention is dead", None, None, None]
    assert capsys.readouterr().err.strip() == "warning: step 0: attention is dead"
