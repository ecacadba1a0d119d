"""A run that an earlier version of qtx made gives the numbers that are recorded in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from qtx.cli.flags import load_run_config
from qtx.cli.main import main
from qtx.experiment import default, from_record, read, record
from qtx.families import FAMILIES
from qtx.pipeline.measurements import find_result
from qtx.training import RunFolder
from qtx.training.run_folder import differences

CONFIG = """
from pathlib import Path

from qtx.experiment import from_record
from qtx.training import RunFolder

def get_config():
    return from_record(RunFolder(Path({folder!r})).read_config(), "the record")
"""
RUN = Path(__file__).parents[1] / "reference" / "run"
LATER_OPTIONS = ("eta_warmup_steps", "empty_warmup_steps", "empty_weight")


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
    found = find_result(RunFolder(RUN), 400, None, config)
    assert found is not None and found["quantized"] == {s: measured(RUN)[s]["perplexity"] for s in ("w8a8", "w8a4")}
    other = {**config, "activation_estimator": "running_minmax,momentum=0.5"}
    assert find_result(RunFolder(RUN), 400, None, other) is None


@pytest.mark.slow
def test_its_ranges_are_read_and_it_goes_on_training(copy, capsys):
    expected = measured(copy)
    ranges = f"--ranges={RUN / 'ranges' / 'w8a8.safetensors'}"
    assert main(["quantize", f"--workdir={copy}", ranges, "--scheme=w8a8"]) == 0, capsys.readouterr().err
    assert measured(copy)["w8a8"] == pytest.approx(expected["w8a8"], rel=2e-3)
    config = copy.with_name("config.py")
    config.write_text(CONFIG.format(folder=str(copy)))
    assert main(["train", f"--config={config}", f"--workdir={copy}"]) == 0, capsys.readouterr().err
    assert "trained 400 steps" in capsys.readouterr().out


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_from_before_the_length_of_its_attention_was_recorded(family):
    """Is one of its config's: of the text, or of the image's patches and the class token; and of its activation."""
    config = default(family, "clipped_softmax")
    if family == "vit":
        config.model.update({"image_size": 8, "patch_size": 2, "channels": 1, "num_classes": 3})
    else:
        config.data.sequence_length = 48
    now = record(read(config))
    length = 17 if family == "vit" else 48
    assert now["model"]["attention"]["length"] == length
    attention = {name: x for name, x in now["model"]["attention"].items() if name != "length"}
    model = {name: x for name, x in now["model"].items() if name != "activation"} | {"attention": attention}
    earlier = {**now, "model": model}
    assert differences(earlier, now) == []
    config.model.attention.length = 9
    assert differences(earlier, record(read(config))) == [f"model.attention.length ({length} there, 9 here)"]
    read_again = from_record(earlier, "an earlier run's")
    if family != "vit":
        read_again.data.sequence_length = 16
    assert read(read_again).model.attention.normalizer.length == length


def test_its_export_is_of_an_older_format_and_says_how_to_mend_it(copy, capsys):
    assert main(["evaluate", f"--workdir={copy / 'export' / 'int8'}"]) == 2
    assert "export the model anew" in capsys.readouterr().err
