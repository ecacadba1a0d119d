"""Whole runs: what they log, and that interruptions leave no trace."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.errors import QtxError
from qtx.training import MeshConfig, evaluate, fit, load_params, read_metrics

CONFIG = {"seed": 7, "model": {"width": 16}}
TIMES = ("examples_per_second", "tokens_per_second")


class Interruption(Exception):
    pass


class InterruptedData:
    """The data, whose training iterator fails instead of giving batch number `stop` of a run."""

    def __init__(self, data, stop):
        self._data, self._stop, self.evaluation = data, stop, data.evaluation

    def train(self, *args):
        iterator, stop = self._data.train(*args), self._stop

        class Failing(type(iterator)):
            def __next__(self):
                if self.get_state()["next_index"] >= stop:
                    raise Interruption
                return super().__next__()

        iterator.__class__ = Failing
        return iterator


@pytest.fixture(scope="module")
def run(module, data, training):
    def run(workdir, data=data, config=CONFIG, **options):
        options = {"mesh_config": MeshConfig(1), "seed": 7} | options
        return fit(module, data, options.pop("training", training), workdir=workdir, config=config, **options)

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


def test_logged_evaluation_is_that_of_the_saved_parameters(unbroken, module, data):
    params = load_params(module, data, unbroken.workdir, MeshConfig(1))
    jax.tree.map(np.testing.assert_array_equal, params, unbroken.params)
    # 20 sequences in batches of 8, the last one padded, against batches of 16 in the run.
    metrics = evaluate(lambda batch: module.apply({"params": params}, batch), data.evaluation(8))
    assert metrics["predictions"] == unbroken.metrics["predictions"]
    assert metrics["loss"] == pytest.approx(unbroken.metrics["loss"], rel=1e-6)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]), rel=1e-12)


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


def test_a_run_goes_on_on_another_mesh(run, unbroken, data, tmp_path):
    with pytest.raises(Interruption):
        run(tmp_path, data=InterruptedData(data, 8))
    result = run(tmp_path, mesh_config=MeshConfig(2, 2, 2))
    assert result.metrics["loss"] == pytest.approx(unbroken.metrics["loss"], rel=1e-5)


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


def test_a_loss_that_is_not_finite_stops_the_run(run, data, tmp_path):
    def infinite(record, rng):
        made = data.example(record, rng)
        return made | {"weights": np.full_like(made["weights"], np.inf)}

    poisoned = dataclasses.replace(data, example=infinite)
    with pytest.raises(QtxError, match="not finite at step 1: .*learning_rate"):
        run(tmp_path, data=poisoned)
    assert not any(step.name.isdigit() for step in (tmp_path / "checkpoints").iterdir())


def test_a_monitor_warns(run, tmp_path, capsys):
    def monitor(params, batch, step):
        return {"dead_row_share": 0.9}, "attention is dead" if step == 0 else None

    run(tmp_path, monitor=monitor)
    lines = read_metrics(tmp_path, "monitor")
    assert [line.get("warning") for line in lines] == ["attention is dead", None, None, None]
    assert capsys.readouterr().err.strip() == "warning: step 0: attention is dead"
