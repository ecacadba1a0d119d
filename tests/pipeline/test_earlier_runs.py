"""A run of the version of 27 November 2026 (commit ff2ca21) gives the numbers that this version recorded in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from qtx.cli.flags import load_run_config
from qtx.cli.main import main
from qtx.experiment import default, from_record, read, record, recorded
from qtx.foundation.errors import QtxError
from qtx.pipeline.measurements import find_result
from qtx.pipeline.run import assemble_run
from qtx.training import RunFolder, read_metrics
from qtx.training.earlier import of_this_version
from qtx.training.run_folder import differences

CONFIG = """
from pathlib import Path

from qtx.experiment import from_record
from qtx.training import RunFolder

def get_config():
    return from_record(RunFolder(Path({folder!r})).read_config(), "the record")
"""
REFERENCE = Path(__file__).parents[1] / "reference"
RUN = REFERENCE / "run"
RECORDS = json.loads((REFERENCE / "records.json").read_text())
"""By family, what that version recorded of the default config with clipped softmax."""
IN_INTEGERS = 32.3
"""The perplexity of the model in integers, as that version printed it."""


def measured(folder):
    """Scheme to the newest values, without the time that they took."""
    lines = json.loads((folder / "results.json").read_text())["measurements"]
    return {line["scheme"]: {k: v for k, v in line["values"].items() if k != "seconds"} for line in lines}


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(RUN, tmp_path / "run"))


@pytest.mark.slow
def test_it_evaluates_and_quantizes_to_its_numbers(copy, capsys):
    expected = measured(copy)
    assert expected.keys() == {"fp", "w8a8", "w8a4"}
    (copy / "results.json").unlink()
    assert main(["quantize", f"--workdir={copy}"]) == 0, capsys.readouterr().err
    found = measured(copy)
    # Ranges of scores counted keys that no query sees when the run was measured, which 4 bits show.
    tolerance = {"fp": 1e-5, "w8a8": 2e-3, "w8a4": 3e-2}
    for scheme, values in expected.items():
        assert found[scheme] == pytest.approx(values, rel=tolerance[scheme]), scheme


def test_what_was_measured_of_it_counts():
    """Under the options of today that its own options mean, and no others."""
    experiment = read(load_run_config(RUN))
    config = record(experiment)["quantization"]
    found = find_result(RunFolder(RUN), 60, 8, config)
    assert found is not None and found["quantized"] == {s: measured(RUN)[s]["perplexity"] for s in ("w8a8", "w8a4")}
    other = {**config, "activation_estimator": "running_minmax,momentum=0.5"}
    assert find_result(RunFolder(RUN), 60, 8, other) is None


@pytest.mark.slow
def test_its_ranges_are_read(copy, capsys):
    expected = measured(copy)
    ranges = f"--ranges={RUN / 'ranges' / 'w8a8.safetensors'}"
    assert main(["quantize", f"--workdir={copy}", ranges, "--scheme=w8a8"]) == 0, capsys.readouterr().err
    assert measured(copy)["w8a8"] == pytest.approx(expected["w8a8"], rel=2e-3)


@pytest.mark.slow
def test_it_goes_on_from_its_first_checkpoint_to_its_end(copy, capsys):
    """Dropout included: the draws are those of that version."""
    shutil.rmtree(copy / "checkpoints" / "60")
    config = copy.with_name("config.py")
    config.write_text(CONFIG.format(folder=str(copy)))
    assert main(["train", f"--config={config}", f"--workdir={copy}"]) == 0, capsys.readouterr().err
    for split, names in (("train", ("loss", "grad_norm", "penalty/hinge")), ("eval", ("loss", "accuracy"))):
        expected, found = (read_metrics(folder, split)[-1] for folder in (RUN, copy))
        assert found["step"] == expected["step"] == 60
        assert {name: found[name] for name in names} == pytest.approx({n: expected[n] for n in names}, rel=1e-5)


@pytest.mark.parametrize("family", RECORDS)
def test_a_config_is_completed_by_the_options_added_since(family):
    config = default(family, "clipped_softmax")
    if family == "vit":
        config.model.update({"image_size": 8, "patch_size": 2, "channels": 1, "num_classes": 3})
    now, then = record(read(config)), of_this_version(RECORDS[family])
    assert record(read(from_record(then, "an earlier run's"))) == now
    assert differences(then, now) == []
    length = {"vit": 17}.get(family, 128)  # 4 x 4 patches and the class token, or the tokens of a text
    assert now["model"]["attention"]["length"] == length
    config.model.attention.length = 9
    assert differences(then, record(read(config))) == [f"model.attention.length ({length} there, 9 here)"]


@pytest.mark.slow
def test_other_data_than_the_run_was_trained_on_are_refused_unless_named(copy):
    folder = RunFolder(copy)
    config = folder.read_config()
    folder.write_config({**config, "identity": {**config["identity"], "training": "0" * 64}})
    with pytest.raises(QtxError, match="was trained on other data: config.data is the same"):
        assemble_run(read(recorded(copy)), copy, names_data=False)
    assert assemble_run(read(recorded(copy)), copy, names_data=True)[1] is False


@pytest.mark.slow
def test_its_model_in_integers_gives_its_number(copy, capsys):
    assert main(["evaluate", f"--workdir={copy / 'export' / 'int8'}"]) == 0, capsys.readouterr().err
    assert f"perplexity {IN_INTEGERS}" in capsys.readouterr().out
