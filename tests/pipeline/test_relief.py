"""A decoder's healing: a prefix and scaled units are found, trained with, told, and leave with the model."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from qtx.analysis.writers import Writer
from qtx.attention.conversion import without_warmup
from qtx.cli.main import main
from qtx.experiment import default, read
from qtx.foundation.errors import QtxError
from qtx.interop import load
from qtx.pipeline.assemble import assemble
from qtx.pipeline.heal import load_experiment
from qtx.pipeline.relief import units_of
from qtx.pipeline.run import load_run, train_run
from qtx.training.relief import ReliefConfig


def tiny():
    config = default("llama")
    config.model.update(dict(num_layers=2, width=16, num_heads=2, num_kv_heads=1, mlp_width=24, max_length=32))
    config.model.init_std = 0.2
    config.data.update({"sequence_length": 32, "vocab_size": 300})
    config.training.update({"steps": 20, "batch_size": 8, "warmup_steps": 1, "eval_batches": 2, "eval_every": 20})
    config.mesh.data = 1
    config.quantization.update({"schemes": ("w8a8",), "calibration_batches": 2, "weight_estimator": "minmax"})
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder") / "run"
    train_run(assemble(read(tiny()), workdir=folder), folder)
    return folder


def relieved_config(trained, **changes):
    config = tiny()
    config.objective, config.start = "distill", str(trained)
    config.data = load_config_data(trained)
    config.model.prefix = 1
    config.relief.update({"prefix": (7,), "units": ("1:3=0.5",)})
    config.training.steps = 4
    config.update(changes)
    return config


def load_config_data(trained):
    return default_data(json.loads((trained / "config.json").read_text())["data"])


def default_data(values):
    config = tiny()
    config.data.update({name: value for name, value in values.items() if name in config.data})
    return config.data


@pytest.mark.slow
def test_a_run_starts_with_its_relief_and_the_next_goes_on_with_it(trained, tmp_path):
    first = train_run(assemble(read(relieved_config(trained)), workdir=tmp_path / "one"), tmp_path / "one")
    assembled = first.assembled
    assert assembled.experiment.relief == ReliefConfig((7,), ("1:3=0.5",))
    batch = next(iter(assembled.data.evaluation(2)))
    # The teacher has the prefix, and its units are as they were.
    original, teacher = load_run(trained).floating_point, assembled.teacher.params
    np.testing.assert_array_equal(teacher["layers"]["mlp"]["in"]["kernel"], original["layers"]["mlp"]["in"]["kernel"])
    assert teacher["layers"]["attention"]["prefix"]["key"].shape == (2, 1, 1, 8)
    targets = assembled.teacher.outputs({name: batch[name] for name in ("tokens", "mask", "weights")})
    assert np.isfinite(np.asarray(targets["teacher_logits"])).all()
    second = relieved_config(trained, start=str(tmp_path / "one"))
    before = first.floating_point["layers"]["mlp"]["in"]["kernel"]
    second.training.learning_rate = 1e-12
    after = train_run(assemble(read(second), workdir=tmp_path / "two"), tmp_path / "two").floating_point
    np.testing.assert_allclose(after["layers"]["mlp"]["in"]["kernel"], before, atol=1e-6)


@pytest.mark.slow
def test_another_relief_than_the_starts_is_refused(trained, tmp_path):
    train_run(assemble(read(relieved_config(trained)), workdir=tmp_path / "one"), tmp_path / "one")
    other = relieved_config(trained, start=str(tmp_path / "one"))
    other.relief.units = ()
    with pytest.raises(QtxError, match="is a run of another model: relief"):
        assemble_and_train(other, tmp_path / "two")


def assemble_and_train(config, folder):
    return train_run(assemble(read(config), workdir=folder), folder)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"start": ""}, "config.relief changes a trained model, but config.start is empty"),
        ({"relief.sinks": True}, "config.model.attention has none: set the attention to sink"),
        ({"model.prefix": 0}, "config.relief.prefix has 1 tokens, but config.model.prefix is 0: set it to 1"),
    ],
)
def test_a_relief_that_fits_nothing_is_refused(changes, says):
    config = tiny()
    config.start = "runs/x"
    config.model.prefix = 1
    config.relief.prefix = (7,)
    config.update_from_flattened_dict(changes)
    with pytest.raises(QtxError, match=says):
        read(config)


def test_units_that_write_too_much_are_scaled_to_the_bound():
    writers = [Writer("x", 2, 90, 5, 300.0, 600.0), Writer("x", 9, 4, 5, 100.0, 120.0), Writer("x", 1, 1, 3, 1.0, 9.0)]
    assert units_of(writers, 100.0) == ("2:90=0.17", "9:4=0.83")


@pytest.mark.slow
@pytest.mark.parametrize(
    "flag, relief", [("--no-prefix", ReliefConfig()), ("--attention=sink", ReliefConfig(sinks=True))]
)
def test_a_decoder_without_a_prefix_gets_late_and_limited_noise(flag, relief, trained, tmp_path, capsys):
    out = tmp_path / "healed"
    command = ["heal", str(trained), f"--out={out}", "--steps=30", "--force", "--bits=w4a4", flag]
    command += [f"--config.{name}" for name in ("mesh.data=1", "training.eval_batches=2")]
    command += ["--config.quantization.calibration_batches=2"]
    assert main(command) == 0, capsys.readouterr().err
    assert "looking for hidden units that write spikes" in capsys.readouterr().out
    stage = load_run(out / "run" / "stage_1")
    experiment = stage.assembled.experiment
    assert dataclasses.replace(experiment.relief, units=()) == relief and not experiment.model.prefix
    assert (experiment.qat.noise_from, experiment.qat.noise_limit) == (3, 1.0)
    config, params = load(out)
    assert not config.prefix
    assert without_warmup(config.attention) == without_warmup(experiment.model.attention)
    if relief.sinks:
        assert np.std(params["layers"]["attention"]["normalizer"]["sinks"]) > 0
    assert main([*command, *(["--no-prefix"] if flag != "--no-prefix" else [])]) == (2 if relief.sinks else 0)


@pytest.mark.slow
def test_a_decoder_is_healed_from_the_command_line_and_leaves_with_what_was_found(trained, tmp_path, capsys):
    out = tmp_path / "healed"
    command = ["heal", str(trained), f"--out={out}", "--steps=30", "--force", "--bits=w4a4", "--config.mesh.data=1"]
    command += ["--config.training.eval_batches=2", "--config.quantization.calibration_batches=2"]
    assert main(command) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert "before every text: perplexity" in told and "taken: " in told
    stage = load_experiment(out / "run" / "stage_1")
    config, params = load(out)
    assert config.prefix == len(stage.relief.prefix)
    if config.prefix:
        assert params["layers"]["attention"]["prefix"]["key"].shape[1] == config.prefix
        assert json.loads((out / "config.json").read_text())["qtx_prefix"] == config.prefix
    card = (out / "README.md").read_text()
    assert "perplexity, floating point" in card
    # What is there stays, and is not looked for again.
    assert main(command) == 0, capsys.readouterr().err
    assert "looking for" not in capsys.readouterr().out
    assert jax.tree.all(jax.tree.map(np.array_equal, load(out)[1], params))
    assert dataclasses.asdict(load_experiment(out / "run" / "stage_1")) == dataclasses.asdict(stage)
