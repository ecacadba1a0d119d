"""A run is of its data and its tokenizer: no others pass for them, and a run never trains its tokenizer anew."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import qtx.data.vocabularies
from qtx.cli.flags import load_run_config
from qtx.cli.main import main
from qtx.data import OBJECTIVES, SOURCES, DataConfig, load
from qtx.data.sources import TextFiles
from qtx.experiment import read
from qtx.foundation.storage import seal
from qtx.pipeline.assemble import assemble
from qtx.pipeline.measure import metrics_of
from qtx.quantization.integer import load as load_integers
from qtx.quantization.qat.config import QatConfig
from qtx.training import RunFolder

WORDS = "river stone cloud ember forest meadow silver winter candle harbor lantern mirror pebble quiet raven".split()


def prose(seed: int, lines: int = 400) -> str:
    """Lines of twelve words, in which each word decides the next but one."""
    state, text = seed, []
    for _ in range(lines):
        line = []
        for _ in range(12):
            state = (5 * state + 3) % 1009
            line.append(WORDS[state % len(WORDS)])
        text.append(" ".join(line))
    return "\n".join(text) + "\n"


CONFIG = """
from qtx.experiment import default

def get_config(variant="softmax"):
    config = default("opt", variant)
    config.model.update({{"num_layers": 1, "width": 8, "num_heads": 2, "mlp_width": 16, "max_length": 16}})
    config.data.source = "text_files"
    config.data.files = ({folder!r} + "/train*.txt",)
    config.data.validation_files = ({folder!r} + "/held_out.txt",)
    config.data.sequence_length = 16
    config.data.vocab_size = 300
    config.training.update({{"steps": 4, "batch_size": 16, "warmup_steps": 1, "checkpoint_every": 2}})
    config.mesh.data = 1
    config.quantization.schemes = ("w8a8",)
    config.quantization.calibration_batches = 2
    return config
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a config, its text files and the run that was trained on them."""
    root = tmp_path_factory.mktemp("identity")
    (root / "train.txt").write_text(prose(1))
    (root / "held_out.txt").write_text(prose(2, 60))
    (root / "config.py").write_text(CONFIG.format(folder=str(root)))
    assert main(["train", f"--config={root}/config.py", f"--workdir={root}/run"]) == 0
    return root


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """The same in another place, whose files a test may change."""
    root = tmp_path / "copy"
    shutil.copytree(trained, root)
    for file in (root / "run" / "checkpoints").rglob("progress/metadata"):
        progress = json.loads(file.read_text().replace(str(trained), str(root)))
        del progress["checksum"]
        file.write_text(json.dumps(seal(progress)))
    run = RunFolder(root / "run")
    run.write_config(json.loads(json.dumps(run.read_config()).replace(str(trained), str(root))))
    (root / "config.py").write_text(CONFIG.format(folder=str(root)))
    return root


def told(arguments: list[str], capsys) -> str:
    """The one line of an error."""
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("qtx: error: ") and err.count("\n") == 1
    return err


def perplexity(run: Path, scheme: str = "fp") -> float:
    """The last measurement under a scheme."""
    found = json.loads((run / "results.json").read_text())["measurements"]
    return [measured["values"]["perplexity"] for measured in found if measured["scheme"] == scheme][-1]


COMMANDS = {
    "evaluate": ["evaluate"],
    "quantize": ["quantize"],
    "sensitivity": ["sensitivity"],
    "export": ["export", "--format=int8"],
}


def head_line(file: Path) -> None:
    """One line of other words at the head of the file."""
    file.write_text("completely unrelated vocabulary appears here zigzag\n" * 3 + file.read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "file", "changed"),
    [
        (command, *(("train.txt", "training data (SHA-256"), ("held_out.txt", "held-out data (SHA-256"))[i % 2])
        for i, command in enumerate(COMMANDS)
    ],
)
def test_other_data_in_the_same_files_are_refused(command, file, changed, copy, capsys):
    head_line(copy / file)
    before = sorted((copy / "run").rglob("*"))
    message = told([*COMMANDS[command], f"--workdir={copy}/run"], capsys)
    assert "was trained on other data" in message and changed in message and "--config.data.source=" in message
    assert sorted((copy / "run").rglob("*")) == before


@pytest.mark.slow
def test_training_refuses_them_even_when_named(copy, capsys):
    head_line(copy / "train.txt")
    train = ["train", f"--config={copy}/config.py", f"--workdir={copy}/run"]
    message = told(train, capsys)
    assert "holds a run of other data" in message and "training data (SHA-256" in message and "restore it" in message
    other = f"--config.data.files=('{copy}/held_out.txt',)"
    assert "holds a run of another config: data.files" in told([*train, other], capsys)


@pytest.mark.slow
def test_named_data_are_measured_and_recorded(copy, capsys):
    """Named by the same words too, for who names them knows that they may have changed."""
    assert main(["evaluate", f"--workdir={copy}/run"]) == 0
    own = perplexity(copy / "run")
    head_line(copy / "train.txt")
    assert main(["evaluate", f"--workdir={copy}/run", f"--config.data.files=('{copy}/train*.txt',)"]) == 0
    # The tokenizer is the run's own, so the same held-out text has the same tokens.
    assert perplexity(copy / "run") == pytest.approx(own, rel=1e-6)
    (copy / "other.txt").write_text(prose(5, 60))
    named = ["--config.data.source=text_files", f"--config.data.files=('{copy}/other.txt',)"]
    named.append(f"--config.data.validation_files=('{copy}/other.txt',)")
    capsys.readouterr()
    assert main(["quantize", f"--workdir={copy}/run", *named]) == 0
    assert "other data than it was trained on" in capsys.readouterr().out
    found = json.loads((copy / "run" / "results.json").read_text())["measurements"]
    assert [m["data"]["own"] for m in found] == [True, False, False, False]
    assert [m["scheme"] for m in found] == ["fp", "fp", "fp", "w8a8"]
    assert len({m["data"]["held_out"] for m in found}) == 2 and "other.txt" in found[-1]["data"]["description"]
    assert json.loads((copy / "run" / "config.json").read_text())["data"]["files"] == [f"{copy}/train*.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("option", ["tokenizer=wordpiece", "vocab_size=280"])
def test_another_tokenizer_is_never_accepted(option, copy, capsys):
    message = told(["evaluate", f"--workdir={copy}/run", f"--config.data.{option}"], capsys)
    assert f"holds a run of another config: data.{option.partition('=')[0]}" in message


@pytest.mark.slow
def test_a_changed_tokenizer_is_refused(copy, capsys):
    file = copy / "run" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(content))
    for arguments in (["evaluate"], ["evaluate", f"--config.data.files=('{copy}/train*.txt',)"]):
        assert "tokenizer (SHA-256" in told([*arguments, f"--workdir={copy}/run"], capsys)
    assert "tokenizer (SHA-256" in told(["train", f"--config={copy}/config.py", f"--workdir={copy}/run"], capsys)
    file.unlink()
    assert "tokenizer.json is missing" in told(["evaluate", f"--workdir={copy}/run"], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("command", [["train"], *COMMANDS.values()], ids=lambda command: command[0])
def test_no_command_trains_the_tokenizer_anew(command, copy, monkeypatch):
    """Another version of its library, or of Python's text, would make another one."""

    def trained_anew(*_):
        raise AssertionError("the tokenizer was trained again")

    monkeypatch.setitem(qtx.data.text.VOCABULARIES, "bpe", trained_anew)
    config = [f"--config={copy}/config.py"] if command == ["train"] else []
    assert main([*command, *config, f"--workdir={copy}/run"]) == 0
    if command[0] == "export":
        assert main(["evaluate", f"--workdir={copy}/run/export/int8"]) == 0


@pytest.mark.slow
def test_a_run_on_files_goes_on(copy):
    shutil.rmtree(copy / "run" / "checkpoints" / "4")
    assert main(["train", f"--config={copy}/config.py", f"--workdir={copy}/run"]) == 0
    assert (copy / "run" / "checkpoints" / "4").is_dir()


@pytest.mark.slow
def test_the_identity_is_in_the_config_and_in_each_checkpoint(trained):
    there = json.loads((trained / "run" / "config.json").read_text())
    assert there["identity"].keys() == {"tokenizer", "training", "held_out"}
    assert len(set(there["identity"].values())) == 3
    progress = sorted((trained / "run" / "checkpoints").rglob("progress/metadata"))
    assert [json.loads(file.read_text())["config"]["identity"] for file in progress] == [there["identity"]] * 2


@pytest.mark.slow
def test_a_checkpoint_of_another_run_is_refused(copy, capsys):
    """Of the same model, on other text: its words have other numbers."""
    (copy / "train.txt").write_text(prose(3))
    assert main(["train", f"--config={copy}/config.py", f"--workdir={copy}/other"]) == 0
    (copy / "train.txt").write_text(prose(1))
    shutil.rmtree(copy / "run" / "checkpoints")
    shutil.copytree(copy / "other" / "checkpoints", copy / "run" / "checkpoints")
    message = told(["evaluate", f"--workdir={copy}/run"], capsys)
    assert "4 is of another run: tokenizer (SHA-256" in message and "training data (SHA-256" in message


@pytest.mark.slow
def test_a_run_of_an_earlier_version_is_told_so(copy, capsys):
    run = RunFolder(copy / "run")
    run.write_config({name: value for name, value in run.read_config().items() if name != "identity"})
    message = told(["evaluate", f"--workdir={copy}/run"], capsys)
    assert "does not say what data and tokenizer the run was trained with" in message


@pytest.mark.long
def test_what_starts_from_a_run_may_have_other_data_cut_by_its_tokenizer(copy):
    qat = [f"--config={copy}/config.py", f"--workdir={copy}/qat", f"--config.start={copy}/run"]
    head_line(copy / "train.txt")
    assert main(["train", *qat, "--config.qat.scheme=w4a8"]) == 0
    assert (copy / "qat" / "tokenizer.json").read_bytes() == (copy / "run" / "tokenizer.json").read_bytes()


@pytest.mark.slow
def test_a_start_that_has_changed_since_is_refused(copy, capsys):
    command = ["train", f"--config={copy}/config.py", f"--workdir={copy}/second", f"--config.start={copy}/run"]
    assert main(command) == 0
    assert main(command) == 0
    shutil.rmtree(copy / "run" / "checkpoints" / "4")  # the newest is another one now
    message = told(command, capsys)
    assert "another start" in message and "content: start (SHA-256" in message


@pytest.fixture(scope="module")
def quantized_run(trained, tmp_path_factory) -> Path:
    """The folder of a run of quantization-aware training under w4a8, of which its config's schemes say nothing."""
    workdir = tmp_path_factory.mktemp("qat") / "run"
    qat = [f"--config.start={trained}/run", "--config.qat.scheme=w4a8", "--config.training.learning_rate=0.05"]
    assert main(["train", f"--config={trained}/config.py", f"--workdir={workdir}", *qat]) == 0
    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("named", [None, "w6a8"])
def test_quantized_training_is_exported_as_it_was_trained(named, quantized_run, capsys):
    scheme = [] if named is None else [f"--scheme={named}"]
    simulated = perplexity(quantized_run, "w4a8")
    assert main(["export", f"--workdir={quantized_run}", "--format=int8", *scheme]) == 0
    learned = "w4a8: ranges learned in training"
    anew = "w6a8: ranges calibrated anew (the run was trained under w4a8), method static"
    assert (anew if named == "w6a8" else learned) in capsys.readouterr().out
    folder = quantized_run / "export" / "int8"
    assembled = assemble(dataclasses.replace(read(load_run_config(folder)), qat=QatConfig()), workdir=folder)
    difference = metrics_of(assembled, load_integers(assembled.module, folder))["perplexity"] / simulated - 1
    assert abs(difference) < 1e-3 if named != "w6a8" else abs(difference) > 3e-3
    shutil.rmtree(quantized_run / "export")


@pytest.mark.slow
@pytest.mark.parametrize("named", [None, "w6a8"])
def test_quantized_training_is_examined_as_it_was_trained(named, quantized_run, capsys):
    scheme = ["--config.quantization.sensitivity_batches=100", *([f"--scheme={named}"] if named else [])]
    assert main(["sensitivity", f"--workdir={quantized_run}", *scheme]) == 0
    assert ("ranges learned in training" in capsys.readouterr().out) == (named is None)
    found = json.loads((quantized_run / "sensitivity.json").read_text())
    assert found["scheme"] == (named or "w4a8")
    if named is None:
        assert found["quantized"] == pytest.approx(perplexity(quantized_run, "w4a8"), rel=1e-5)


SAMPLES = {
    "stdlib": [{}, {"held_out_fraction": 0.1}],
    "bigram_backcopy": [{"vocab_size": 16}, {"vocab_size": 16, "chain_seed": 1}, {"vocab_size": 16, "num_triggers": 2}],
    "digits": [{}],
}


@pytest.mark.representative("bigram_backcopy", "digits")
@pytest.mark.parametrize("source", SAMPLES)
def test_digests_tell_data_apart_and_know_them_again(source):
    objective = next(name for name, objective in OBJECTIVES.items() if SOURCES[source].serves(objective))
    loaded = [load(DataConfig(SOURCES[source](**options)), objective).digests for options in (*SAMPLES[source],) * 2]
    half = len(loaded) // 2
    assert loaded[:half] == loaded[half:]
    digests = [digest for found in loaded[:half] for digest in found.values()]
    assert len(set(digests)) == len(digests) == 2 * half


def test_digests_of_text_do_not_depend_on_how_it_is_cut(tmp_path):
    (tmp_path / "a.txt").write_text(prose(1))
    (tmp_path / "b.txt").write_text(prose(2))

    def digests(*files: str, **options):
        names = tuple(str(tmp_path / file) for file in files)
        held_out = (str(tmp_path / "b.txt"),)
        config = DataConfig(TextFiles(files=names, validation_files=held_out, **options))
        return load(config, "clm").digests

    first = digests("a.txt", sequence_length=16, vocab_size=300)
    assert digests("a.txt", sequence_length=32, vocab_size=290) == first
    shutil.move(tmp_path / "a.txt", tmp_path / "c.txt")
    assert digests("c.txt", sequence_length=16, vocab_size=300) == first
    changed = digests("c.txt", "b.txt", sequence_length=16, vocab_size=300)
    assert changed["held_out"] == first["held_out"] and changed["training"] != first["training"]
