"""The mistakes that newcomers make: each is told in one line, with exit code 2, and leaves nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qtx.cli.flags import load_config_file
from qtx.cli.main import main
from qtx.foundation.storage import sealed_json

NANO = str(Path(__file__).parents[1] / "nano_config.py")
BERT = """
from qtx.experiment import default

def get_config(variant="softmax"):
    config = default("bert", variant)
    config.data.source = "text_files"
    config.data.files = ({text!r},)
    config.data.validation_files = ({text!r},)
    {line}
    return config
"""
ENGLISH = "The quick brown fox jumps over the lazy dog, again and again.\n" * 200

# Of the command line: name -> (arguments, what the message must say). {} is the folder of the test.
COMMAND_LINES = {
    "unknown command": (["trian"], "unknown command 'trian': did you mean 'train'?"),
    "flag before the command": (["--workdir={}/run", "train"], "the first argument is a command"),
    "no config": (["train", "--workdir={}/run"], "train needs --config=FILE"),
    "no workdir": (["train", f"--config={NANO}"], "train needs --workdir=FOLDER"),
    "no value": (["train", f"--config={NANO}", "--workdir"], "--workdir has no value"),
    "misspelt flag": (["train", f"--config={NANO}", "--wrokdir={}/run"], "wrokdir"),
    "stray argument": (["train", f"--config={NANO}", "--workdir={}/run", "now"], "unexpected argument 'now'"),
    "workdir is a file": (["train", f"--config={NANO}", f"--workdir={NANO}"], "is a file"),
    "config for report": (["report", f"--config={NANO}", "--workdir={}/run"], "report takes no --config"),
    "override without config": (["report", "--workdir={}/run", "--config.seed=1"], "there is no --config=FILE"),
    "report of nothing": (["report", "--workdir={}/run"], "is not the folder of a comparison"),
    "evaluation of nothing": (["evaluate", "--workdir={}/run"], "is not a run's folder"),
    "quantization of nothing": (["quantize", f"--config={NANO}", "--workdir={}/run"], "is not a run's folder"),
    "unknown method": (
        ["quantize", f"--config={NANO}", "--workdir={}/run", "--method=smoothqant"],
        "unknown method 'smoothqant': did you mean 'smoothquant'?",
    ),
    "malformed scheme": (["quantize", f"--config={NANO}", "--workdir={}/run", "--scheme=8"], "scheme '8': expected w<"),
    "bits out of range": (
        ["sensitivity", f"--config={NANO}", "--workdir={}/run", "--scheme=w8a20"],
        "bits is 20: expected 2 to 16",
    ),
    "method of another command": (["train", f"--config={NANO}", "--workdir={}/run", "--method=gptq"], "method"),
    "export of nothing": (["export", "--workdir={}/run", "--format=int8"], "is not a run's folder"),
    "export without a format": (["export", "--workdir={}/run"], "export needs --format=FORMAT: int8"),
    "config file missing": (
        ["train", f"--config={NANO.replace('nano', 'nanno')}", "--workdir={}/run"],
        "nanno_config.py not found: did you mean",
    ),
    "unknown shipped config": (
        ["train", "--config=dmeo:smoke", "--workdir={}/run"],
        "unknown config file or shipped config 'dmeo': did you mean 'demo'?",
    ),
    "config without its ending": (
        ["train", f"--config={NANO.removesuffix('.py')}", "--workdir={}/run"],
        "nano_config not found: did you mean",
    ),
    "config is a folder": (["train", "--config={}", "--workdir={}/run"], "is a folder"),
    "unknown variant": (
        ["train", f"--config={NANO}:gated_liner", "--workdir={}/run"],
        "unknown attention variant 'gated_liner': did you mean 'gated_linear'?",
    ),
    "unknown option of a variant": (
        ["train", f"--config={NANO}:clipped_softmax,alhpa=2", "--workdir={}/run"],
        "'alhpa': did you mean 'alpha'?",
    ),
    "clipping that grows beyond the end": (
        ["train", f"--config={NANO}:clipped_softmax,gamma_warmup_steps=5", "--workdir={}/run"],
        "gamma_warmup_steps is 5: expected at most config.training.steps 4; lower it, or train longer",
    ),
    "a compared variant's clipping that grows beyond the end": (
        [
            *("compare", f"--config={NANO}", "--workdir={}/run"),
            "--config.compare.variants=('softmax', 'clipped_softmax,gamma_warmup_steps=5')",
        ],
        "gamma_warmup_steps is 5: expected at most config.training.steps 4",
    ),
    "no held-out batches": (
        ["train", f"--config={NANO}", "--workdir={}/run", "--config.training.eval_batches=0"],
        "eval_batches is 0: expected at least 1, or None for all",
    ),
    "option of another variant": (
        ["train", f"--config={NANO}:softmax,alpha=2", "--workdir={}/run"],
        "alpha is set, but normalizer 'softmax' does not take it",
    ),
}

# Of overrides on the command line: name -> (the override, what the message must say).
OVERRIDES = {
    "misspelt key": ("model.widht=16", "unknown key in config.model: 'widht': did you mean 'width'?"),
    "misspelt section": ("modle.width=16", "unknown key in config: 'modle': did you mean 'model'?"),
    "key of a value": ("model.width.x=16", "config.model.width is a value, not a section"),
    "text for a number": ("model.width=wide", "config.model.width=wide"),
    "fraction for a whole number": ("training.steps=1.5", "config.training.steps=1.5"),
    "no tuple": ("compare.seeds=zero", "seeds is ('zero',): expected at least one int"),
    "value for a section": ("model=3", "config.model"),
    "heads that do not divide the width": ("model.num_heads=3", "width 8 is not divisible by num_heads 3: set"),
    "no layers": ("model.num_layers=0", "num_layers is 0"),
    "dropout of one": ("model.dropout=1", "dropout is 1.0: expected a rate in [0, 1)"),
    "alpha without clipping": ("model.attention.alpha=4", "alpha is set, but normalizer 'softmax'"),
    "unknown normalizer": ("model.attention.normalizer=sofmax", "unknown normalizer 'sofmax': did you mean 'softmax'?"),
    "unknown source": ("data.source=bigram_backcpy", "unknown data source 'bigram_backcpy': did you mean"),
    "source of another kind": (
        "data={'source': 'digits'}",
        "data source 'digits' serves objective classification or distill, not 'clm': expected one of stdlib, text",
    ),
    "option of another source": (
        "data.tokenizer=bpe",
        "tokenizer is set, but source 'bigram_backcopy' does not take it",
    ),
    "sequence longer than the model": (
        "data.sequence_length=16",
        "sequence_length 16 exceeds config.model.max_length 8",
    ),
    "vocabulary below the data's": ("model.vocab_size=4", "config.model.vocab_size is 4, but the data has 16"),
    "a teacher's layers without one": ("training.distill_layers=last", "objective 'clm' has no teacher"),
    "another objective": ("objective=mlm", "config.objective is 'mlm': the opt family trains on 'clm'"),
    "another family": ("family=bret", "unknown model family 'bret': did you mean 'bert'?"),
    "negative seed": ("seed=-1", "config.seed is -1"),
    "unknown schedule": ("training.schedule=cosin", "unknown learning-rate schedule 'cosin': did you mean 'cosine'?"),
    "warm-up beyond the end": ("training.warmup_steps=9", "warmup_steps is 9"),
    "batch that does not divide": ("training.accumulation_steps=3", "128 is not divisible by"),
    "more devices than there are": ("mesh.data=512", "needs 512 devices, but there are"),
    "unknown recipe": ("quantization.recipe=paper_otp", "unknown recipe 'paper_otp': did you mean 'paper_opt'?"),
    "recipe of another family": ("quantization.recipe=paper_bert", "recipe 'paper_bert' does not fit the opt model"),
    "unknown scheme": ("quantization.schemes=('int8',)", "scheme 'int8': expected w<weight bits>a<activation bits>"),
    "too few bits": ("quantization.schemes=('w1a8',)", "bits is 1: expected 2 to 16"),
    "unknown variant to compare": ("compare.variants=('sofmax',)", "unknown attention variant 'sofmax'"),
    "no seeds": ("compare.seeds=()", "seeds is (): expected at least one int"),
    "the same seed twice": ("compare.seeds=(0, 0)", "each may be named once"),
}

# In a config file: name -> (its text, what the message must say).
CONFIG_FILES = {
    "syntax error": ("def get_config(:\n    pass\n", "config.py, line 1: invalid syntax"),
    "misspelt key": (
        BERT.format(text="x", line="config.model.widht = 16"),
        "(config.model.widht = 16): unknown key 'widht': did you mean 'width'?",
    ),
    "misspelt section": (
        BERT.format(text="x", line="config.modle.width = 16"),
        "(config.modle.width = 16): unknown key 'modle': did you",
    ),
    "wrong type": (BERT.format(text="x", line="config.model.width = 'wide'"), "line 9 (config.model.width = 'wide')"),
    "undefined name": (BERT.format(text="x", line="config.seed = sede"), "NameError: name 'sede' is not defined"),
    "nothing returned": ("def get_config():\n    pass\n", "returned NoneType, expected a ConfigDict"),
    "no get_config": ("config = {}\n", "has no get_config()"),
    "foreign config": (
        "from ml_collections import ConfigDict\n\ndef get_config():\n    return ConfigDict({'lr': 0.1})\n",
        "unknown key in config: 'lr'",
    ),
    "positive gamma": (
        BERT.format(text="x", line="config.model.attention.update({'normalizer': 'clipped_softmax', 'gamma': 0.03})"),
        "gamma is 0.03: expected gamma <= 0",
    ),
    "missing file": (BERT.format(text="missing.txt", line=""), "missing.txt"),
}


@pytest.mark.slow
def test_reading_a_config_looks_for_no_devices():
    """Or processes could not join each other any more."""
    code = "from qtx.experiment import default, read; c = default('bert'); c.qat.noise = 'w8a8'; read(c)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"JAX_PLATFORMS": "nowhere"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-1000:]


def test_a_config_file_may_define_dataclasses_whose_annotations_are_text(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(
        "from __future__ import annotations\nimport dataclasses\nfrom typing import ClassVar\n"
        "from qtx.experiment import default\n\n\n@dataclasses.dataclass(frozen=True)\nclass Options:\n"
        "    kind: ClassVar[str] = 'x'\n    seed: int = 3\n\n\ndef get_config():\n"
        "    config = default('bert')\n    config.seed = Options().seed\n    return config\n"
    )
    assert load_config_file(str(file)).seed == 3


# Of text: name -> (the bytes of the file, a further config line, what the message must say).
TEXTS = {
    "empty corpus": (b"", "", "no text in"),
    "blank corpus": (b"\n \n", "", "no text in"),
    "not UTF-8": ("Käse ".encode("latin-1") * 400, "", "UTF-8"),
    "vocabulary too small": (ENGLISH.encode(), "config.data.vocab_size = 8", "vocab_size"),
    "text too short": (b"Hello there.", "config.data.vocab_size = 13", "sequence_length"),
}


def told(arguments: list[str], capsys) -> str:
    """The one line that a mistaken command line gets."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("qtx: error: ") and err.count("\n") == 1 and err.endswith("\n")
    return err


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_command_line(name, tmp_path, capsys):
    arguments, expected = COMMAND_LINES[name]
    message = told([argument.replace("{}", str(tmp_path)) for argument in arguments], capsys)
    assert expected in message
    assert not list(tmp_path.iterdir())


@pytest.mark.representative("*-train", "misspelt key-compare", "unknown source-compare", "negative seed-compare")
@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize("name", OVERRIDES)
def test_override(command, name, tmp_path, capsys):
    override, expected = OVERRIDES[name]
    message = told([command, f"--config={NANO}", f"--workdir={tmp_path}/run", f"--config.{override}"], capsys)
    assert expected in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_config_file(name, tmp_path, capsys):
    text, expected = CONFIG_FILES[name]
    (tmp_path / "config.py").write_text(text)
    message = told(["train", f"--config={tmp_path}/config.py", f"--workdir={tmp_path}/run"], capsys)
    assert expected in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", TEXTS)
def test_text(name, tmp_path, capsys):
    content, line, expected = TEXTS[name]
    (tmp_path / "text.txt").write_bytes(content)
    (tmp_path / "config.py").write_text(BERT.format(text=str(tmp_path / "text.txt"), line=line))
    message = told(["train", f"--config={tmp_path}/config.py", f"--workdir={tmp_path}/run"], capsys)
    assert expected in message
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a finished run."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", f"--config={NANO}", f"--workdir={workdir}"]) == 0
    return workdir


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.representative("train")
@pytest.mark.parametrize("command", ["train", "evaluate", "quantize"])
def test_workdir_of_another_config(command, trained, capsys):
    before = snapshot(trained)
    message = told([command, f"--config={NANO}", f"--workdir={trained}", "--config.model.width=16"], capsys)
    assert "holds a run of another config: model.width (8 there, 16 here)" in message
    assert snapshot(trained) == before


@pytest.mark.representative("compare")
@pytest.mark.parametrize("command", ["compare", "train"])
def test_too_few_data_to_calibrate_are_told_before_training(command, trained, tmp_path, capsys):
    """A comparison would fail after hours; quantization-aware training calibrates at its start."""
    arguments = [command, f"--config={NANO}", f"--workdir={tmp_path}/run"]
    arguments.append("--config.quantization.calibration_batches=9000")
    if command == "train":
        arguments += [f"--config.start={trained}", "--config.qat.scheme=w8a8"]
    assert main(arguments) == 2
    assert "calibration asks for 9000 batches of 128" in capsys.readouterr().err
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_comparison_with_the_run_of_another_config(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "runs" / "none-seed1")
    message = told(["compare", f"--config={NANO}", f"--workdir={tmp_path}"], capsys)
    assert "none-seed1 holds a run of another config: model.attention.normalizer" in message
    assert not (tmp_path / "runs" / "softmax-seed0").exists()


def test_comparison_of_a_chosen_attention(tmp_path, capsys):
    for arguments in ([f"--config={NANO}:gated_linear"], [f"--config={NANO}", "--config.model.attention.gate=linear"]):
        message = told(["compare", *arguments, f"--workdir={tmp_path}/run"], capsys)
        assert "config.model.attention is set, but a comparison takes attention from config.compare.variants" in message


BAD_REQUESTS = {
    **{
        f"more calibration than data, {command[0]}": (
            [*command, "--config.quantization.calibration_batches=9000"],
            "calibration asks for 9000 batches of 128, but there are 1,048,576 training examples: set "
            "config.quantization.calibration_batches to at most 8192",
        )
        for command in (["quantize"], ["sensitivity"], ["export", "--format=int8"])
    },
    "unknown format": (["export", "--format=int4"], "unknown format 'int4': did you mean 'int8'?"),
    "bits that int8 cannot hold": (["export", "--format=int8", "--scheme=w8a12"], "12 bits"),
    "absent ranges": (
        ["quantize", "--ranges=absent.safetensors"],
        "there is no file absent.safetensors, expected a file of ranges",
    ),
    "groups that do not divide": (
        ["quantize", "--config.quantization.activation_granularity=group,num_groups=3"],
        "num_groups 3 does not divide a last axis of 8",
    ),
    "groups of inputs that do not divide": (
        ["quantize", "--config.quantization.weight_granularity=input_group"],
        "groups of 128 do not divide 8 inputs: choose a divisor, such as input_group,size=8, or granularity channel",
    ),
    "methods in the wrong order": (
        ["quantize", "--method=gptq + smoothquant"],
        "method smoothquant has to come before gptq: write 'smoothquant + gptq'",
    ),
}


@pytest.mark.representative("groups*", "*seed*")
@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_request_that_a_run_cannot_meet(name, trained, capsys):
    (command, *arguments), expected = BAD_REQUESTS[name]
    before = snapshot(trained)
    assert main([command, f"--workdir={trained}", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("qtx: error: ") and err.count("\n") == 1 and expected in err
    assert snapshot(trained) == before


@pytest.mark.parametrize("command", ["evaluate", "quantize"])
def test_checkpoint_of_another_model(command, trained, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    config = json.loads((workdir / "config.json").read_text())
    config["model"]["width"] = 16
    del config["checksum"]
    (workdir / "config.json").write_bytes(sealed_json(config))
    before = snapshot(workdir)
    assert main([command, f"--workdir={workdir}"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("qtx: error: ") and err.count("\n") == 1
    assert "is of another model: parameter" in err
    assert snapshot(workdir) == before


@pytest.mark.parametrize("content", [b"{", b"{}", sealed_json({}), sealed_json({"family": "bert", "speed": 3})])
def test_broken_record(content, tmp_path, capsys):
    (tmp_path / "config.json").write_bytes(content)
    assert "config.json is not" in told(["evaluate", f"--workdir={tmp_path}"], capsys)


def test_unexpected_errors_keep_their_traceback(monkeypatch, tmp_path):
    import qtx.cli.commands

    def broken(experiment, workdir, **flags):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(qtx.cli.commands, "train", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["train", f"--config={NANO}", f"--workdir={tmp_path}/run"])


def test_interruption(monkeypatch, tmp_path, capsys):
    import qtx.cli.commands

    def interrupted(experiment, workdir, **flags):
        raise KeyboardInterrupt

    monkeypatch.setattr(qtx.cli.commands, "train", interrupted)
    assert main(["train", f"--config={NANO}", f"--workdir={tmp_path}/run"]) == 130
    assert capsys.readouterr().err == "\nqtx: interrupted: the same command resumes from the last checkpoint\n"
