"""Which attention backend a run trains with: found, recorded, kept."""

import dataclasses
import json

import pytest

from qtx.attention.fused import Blockwise
from qtx.experiment import read
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import sealed_json
from qtx.pipeline.assemble import assemble
from qtx.pipeline.backend import training_backend, with_backend
from qtx.pipeline.train import train
from qtx.training.run_folder import RunFolder
from tests.nano_config import get_config


@pytest.fixture
def experiment():
    return read(get_config())


def with_model(experiment, **options):
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, **options))


def backend_of(experiment, workdir):
    return training_backend(assemble(experiment), workdir)


@pytest.mark.slow
def test_what_is_asked_for_is_taken_unless_something_looks(experiment, tmp_path, monkeypatch):
    assembled = assemble(experiment)
    for backend in ("naive", "blockwise"):
        model = dataclasses.replace(assembled.experiment.model, attention_backend=backend)
        assert training_backend(assembled.with_model(model), tmp_path) == backend
    monkeypatch.setattr(Blockwise, "pays", lambda self, case: True)
    assert training_backend(assembled, tmp_path) == "blockwise"
    noisy = dataclasses.replace(experiment, qat=dataclasses.replace(experiment.qat, noise="w8a8"))
    assert backend_of(noisy, tmp_path) == "blockwise, naive"  # half of its examples' probabilities are rounded
    model = with_backend(experiment.model, "blockwise, naive")
    assert model.attention_backend == "blockwise" and with_backend(model, "naive") == model


@pytest.mark.slow
def test_a_run_keeps_what_it_took(experiment, tmp_path, monkeypatch):
    """Whatever auto would take now: a continued run is bit for bit the one that was never interrupted."""
    shorter = dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, steps=4))
    monkeypatch.setattr(Blockwise, "pays", lambda self, case: True)
    train(assemble(shorter), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert folder.taken() == {"attention_backend": "blockwise"}
    assert folder.read_config()["model"]["attention_backend"] == "auto"
    monkeypatch.setattr(Blockwise, "pays", lambda self, case: False)
    assert backend_of(shorter, tmp_path / "run") == "blockwise"
    train(assemble(shorter), tmp_path / "run")
    assert folder.taken() == {"attention_backend": "blockwise"}
    with pytest.raises(QtxError, match=r"model.attention_backend \(auto there, naive here\)"):
        train(assemble(with_model(shorter, attention_backend="naive")), tmp_path / "run")


def rewrite(folder, change):
    config = json.loads(folder.config.read_text())
    config.pop("checksum")
    change(config)
    folder.config.write_bytes(sealed_json(config))


@pytest.mark.slow
def test_runs_of_other_versions(experiment, tmp_path, monkeypatch):
    train(assemble(experiment), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    monkeypatch.setattr(Blockwise, "pays", lambda self, case: True)
    assert backend_of(experiment, tmp_path / "run") == "naive"
    train(assemble(experiment), tmp_path / "run")  # goes on as what it was
    rewrite(folder, lambda config: config.update(taken={"attention_backend": "quantum"}))
    with pytest.raises(
        QtxError, match="begun with attention backend 'quantum', which this version of qtx does not have"
    ):
        backend_of(experiment, tmp_path / "run")


def test_an_unknown_backend_is_one_line(experiment):
    with pytest.raises(QtxError, match="unknown attention_backend 'blocwise': did you mean 'blockwise'"):
        with_model(experiment, attention_backend="blocwise")
