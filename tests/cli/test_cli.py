"""The commands, from the command line to the files they leave."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from experiments import table2
from qtx import __version__
from qtx.analysis import load_analysis
from qtx.attention import attention_variant
from qtx.cli.command_line import take_argument
from qtx.cli.command_table import COMMANDS
from qtx.cli.flags import load_config_file
from qtx.cli.main import main
from qtx.cli.summary import print_summary
from qtx.experiment import default, read
from qtx.families.in_words import family_title
from qtx.foundation.config import flattened
from qtx.foundation.numbers import number
from qtx.interop import load
from qtx.pages.results import read_lines
from qtx.pipeline.assemble import assemble

NANO = str(Path(__file__).parents[1] / "nano_config.py")


def output(arguments: list[str], capsys) -> str:
    """What a successful command prints."""
    assert main(arguments) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(arguments, capsys):
    text = output(arguments, capsys)
    for name, command in COMMANDS.items():
        assert f"  {name}" in text and command.summary in text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name, capsys):
    text = output([name, "--help"], capsys)
    assert text == output(["help", name], capsys)
    assert f"usage: qtx {name}" in text and COMMANDS[name].example in text
    assert max(map(len, text.splitlines())) <= 120
    assert "--helpfull" not in text


def test_version(capsys):
    assert output(["--version"], capsys) == f"qtx {__version__}\n"


def test_help_is_fast_and_imports_no_jax():
    code = "import sys, qtx.cli.main; qtx.cli.main.main(['train', '--help']); assert 'jax' not in sys.modules"

    def seconds() -> float:
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        return time.monotonic() - began

    assert min(seconds() for _ in range(3)) < 1


@pytest.mark.slow
def test_an_error_of_a_config_waits_for_no_library_of_data_or_checkpoints():
    code = (
        "import sys, qtx.cli.main\n"
        f"code = qtx.cli.main.main(['train', '--config={NANO}', '--config.model.layers=1', '--workdir=unused'])\n"
        "slow = {'grain', 'tensorflow_datasets', 'orbax', 'array_record', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert code == 2 and not slow, (code, slow)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stderr.startswith("qtx: error: unknown key in config.model: 'layers'")


def test_module_is_the_command():
    process = subprocess.run([sys.executable, "-m", "qtx", "trian"], capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.startswith("qtx: error: unknown command 'trian'") and process.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a finished run, and what its training printed."""
    workdir = tmp_path_factory.mktemp("cli") / "run"
    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", text)
        assert main(["train", f"--config={NANO}", f"--workdir={workdir}"]) == 0
    return workdir, text.getvalue()


def test_train_starts_with_the_summary_and_ends_with_the_metric(trained):
    workdir, text = trained
    lines = text.splitlines()
    assert lines[0] == "model: OPT (pre-LN, causal), 1 layer, width 8, 2 heads, feed-forward 16, float32"
    assert [line.partition(":")[0] for line in lines[1:8]] == [
        "attention",
        "computed",
        "parameters",
        "data",
        "devices",
        "training",
        "folder",
    ]
    last = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines() if '"eval"' in line][-1]
    assert lines[2] == "computed: naive attention"
    assert lines[8] == (f"trained 4 steps: held-out loss {last['loss']:.4f}, perplexity {last['perplexity']:.1f}")
    assert lines[9] == f"next: qtx quantize --workdir={workdir}"


def test_training_again_changes_nothing(trained, capsys):
    workdir, text = trained
    metrics = (workdir / "metrics.jsonl").read_bytes()
    assert output(["train", f"--config={NANO}", f"--workdir={workdir}"], capsys) == text
    assert (workdir / "metrics.jsonl").read_bytes() == metrics


def measurements(workdir: Path) -> list[dict]:
    """What the run's results.json has, in order."""
    return json.loads((workdir / "results.json").read_text())["measurements"]


def test_evaluate(trained, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    text = output(["evaluate", f"--workdir={workdir}"], capsys)
    (measured,) = measurements(workdir)
    result = measured["values"]
    last = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines() if '"eval"' in line][-1]
    assert result["loss"] == pytest.approx(last["loss"], rel=1e-5)
    assert result["perplexity"] == pytest.approx(last["perplexity"], rel=1e-5)
    assert (measured["scheme"], measured["checkpoint"], measured["data"]["own"]) == ("fp", 4, True)
    assert f"| max inf. norm | {number(result['max_inf_norm'])} |" in text
    assert load_analysis(workdir / "analysis.npz").metrics["max_inf_norm"] == result["max_inf_norm"]


@pytest.mark.slow
def test_a_checkpoint_within_a_warmup_has_the_attention_that_it_had_there(tmp_path, capsys):
    warming, at_the_step = "clipped_softmax,alpha=4,gamma_warmup_steps=4", "clipped_softmax,alpha=2.0,length=8"
    run = [f"--workdir={tmp_path}/run", "--config.training.checkpoint_every=2", "--config.training.eval_every=2"]
    output(["train", f"--config={NANO}:{warming}", *run], capsys)
    log = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    (then,) = [line["loss"] for line in log if line["split"] == "eval" and line["step"] == 2]
    text = output(["evaluate", run[0], "--checkpoint=2"], capsys)
    assert f"checkpoint 2, within the warm-up: {at_the_step}" in text
    assert measurements(tmp_path / "run")[0]["values"]["loss"] == pytest.approx(then, rel=1e-5)
    output(["export", run[0], "--checkpoint=2", "--format=huggingface"], capsys)
    (exported,) = (tmp_path / "run/export/huggingface").glob("config.json")
    options = {name: x for name, x in flattened(attention_variant(at_the_step)).items() if x is not None}
    assert json.loads(exported.read_text())["qtx_attention"] == options

    (tmp_path / "run/checkpoints/4").rename(tmp_path / "later")
    start = [f"--config={NANO}", f"--config.start={tmp_path}/run", f"--workdir={tmp_path}/next"]
    assert main(["train", *start]) == 2
    assert "is at step 2, within the warm-up of its attention" in capsys.readouterr().err


@pytest.mark.long
def test_quantize_with_saved_ranges_gives_the_same_numbers(trained, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    method = "gptq,damping=0.02"
    output(["quantize", f"--workdir={workdir}", "--scheme=w2a4", f"--method={method}"], capsys)
    calibrated = measurements(workdir)[1]
    file = tmp_path / "saved.safetensors"
    (workdir / "ranges" / "w2a4.safetensors").rename(file)
    # The run's config has remembered method and scheme; a command line that says another one is refused.
    for flag, says in {
        "--method=static": f"holds ranges of method {method}, and the config says static: give --method={method}, or",
        "--method=gptq": f"holds ranges of method {method}, and the config says gptq: give --method={method}, or",
        "--scheme=w4a4": "holds ranges of w2a4, and the config says w4a4: give --scheme=w2a4",
        "--config.quantization.weight_estimator=mse": "was quantized by",
    }.items():
        assert main(["quantize", f"--workdir={workdir}", flag, f"--ranges={file}"]) == 2
        assert says in capsys.readouterr().err
    output(["quantize", f"--workdir={workdir}", f"--ranges={file}"], capsys)
    _, first, loaded = measurements(workdir)
    assert first == calibrated and loaded == {**calibrated, "ranges": str(file)}
    assert json.loads((workdir / "config.json").read_text())["quantization"]["method"] == method
    assert (workdir / "ranges" / "w2a4.safetensors").read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_quantize_by_a_method(trained, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    output(["quantize", f"--workdir={workdir}", "--scheme=w8a8", "--method=smoothquant"], capsys)
    assert json.loads((workdir / "config.json").read_text())["quantization"]["method"] == "smoothquant"
    ranges = load_file(workdir / "ranges" / "w8a8.safetensors")
    assert ranges["weights/layers/mlp/in/kernel/smooth"].shape == (1, 8)


@pytest.mark.slow
def test_sensitivity(trained, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    text = output(["sensitivity", f"--workdir={workdir}", "--scheme=w2a2"], capsys)
    found = json.loads((workdir / "sensitivity.json").read_text())
    assert found["scheme"] == "w2a2" and found["fp"] < found["quantized"]
    assert f"| {found['rows'][0]['path']}[0] |" in text
    assert (workdir / "sensitivity.png").stat().st_size > 10_000


@pytest.mark.slow
def test_export_and_evaluate_in_integers(trained, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    output(["quantize", f"--workdir={workdir}", "--scheme=w8a8"], capsys)
    simulated = measurements(workdir)[1]["values"]["perplexity"]
    text = output(["export", f"--workdir={workdir}", "--format=int8", "--scheme=w8a8"], capsys)
    folder = workdir / "export" / "int8"
    assert "matrix products in floating point: head" in text and f"qtx evaluate --workdir={folder}" in text
    assert f"| metric | perplexity {number(simulated)} |" in output(["evaluate", f"--workdir={folder}"], capsys)


def test_export_to_hugging_face(trained, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    output(["export", f"--workdir={workdir}", "--format=huggingface"], capsys)
    config, params = load(workdir / "export" / "huggingface")
    assert (config.num_layers, config.width, params["layers"]["mlp"]["out"]["kernel"].shape) == (1, 8, (1, 16, 8))


def test_quantize(trained, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    text = output(["quantize", f"--workdir={workdir}", "--config.quantization.schemes=('w8a8', 'w2a2')"], capsys)
    found = {measured["scheme"]: measured["values"]["perplexity"] for measured in measurements(workdir)}
    assert found["w8a8"] == pytest.approx(found["fp"], rel=0.01)
    assert found["w2a2"] > found["w8a8"]
    assert "| W8A8 | W2A2 |" in text
    ranges = load_file(workdir / "ranges" / "w2a2.safetensors")
    assert ranges["activations/layers/mlp/out/bits"].tolist() == [2]
    # The smallest probability of a key that a query sees: the zeros of the others do not count.
    assert np.all(ranges["activations/layers/attention/probs/minimum"] >= 0)
    assert (ranges["weights/layers/mlp/out/kernel/maximum"] > 0).all()
    assert json.loads((workdir / "config.json").read_text())["quantization"]["schemes"] == ["w8a8", "w2a2"]


@pytest.mark.slow
def test_compare_report_and_table2(tmp_path, capsys):
    workdir = tmp_path / "comparison"
    arguments = [f"--config={NANO}", f"--workdir={workdir}", "--config.compare.variants=('softmax',)"]
    arguments.append("--config.compare.seeds=(0,)")
    text = output(["compare", *arguments], capsys)
    assert text.startswith("model: OPT")
    assert "run 1 of 1: softmax, seed 0" in text
    (result,) = read_lines(workdir / "results.jsonl")
    row = f"| softmax | {result['fp']:.1f} |"
    assert row in text and f"report: {workdir / 'report.html'}" in text
    (workdir / "report.html").unlink()
    assert row in output(["report", f"--workdir={workdir}"], capsys)
    assert (workdir / "report.html").is_file()

    assert table2.main(arguments) == 0
    text = capsys.readouterr().out
    assert "1 of 1 runs are finished already" in text
    for cell in ("1294 ± 1046", "39.46", "79.62", "598", f"{result['fp']:.1f}"):
        assert cell in text


def test_summary_is_a_panel_on_a_terminal(tmp_path):
    text = io.StringIO()
    assembled = assemble(read(load_config_file(NANO)))
    print_summary(assembled, tmp_path, Console(file=text, force_terminal=True, width=120))
    assert "qtx · nano" in text.getvalue() and "╭" in text.getvalue()


@pytest.mark.slow
def test_the_summary_says_what_is_trained(trained, tmp_path, capsys):
    """The optimizer, and where the LayerNorms are, of the config and not of the family."""
    flags = [
        "--config.training.optimizer=lion",
        "--config.model.pre_norm=False",
        "--config.training.learning_rate=1e-4",
    ]
    text = output(["train", f"--config={NANO}", f"--workdir={tmp_path}/run", *flags], capsys)
    assert text.startswith("model: OPT (post-LN, causal), 1 layer")
    assert "training: clm, 4 steps of batch 128, lion 0.0001 linear, " in text
    assert ", adamw 0.001 linear, " in trained[1]


@pytest.mark.parametrize(
    ("family", "title"),
    [("bert", "BERT (post-LN, bidirectional)"), ("opt", "OPT (pre-LN, causal)"), ("vit", "ViT (pre-LN, images)")],
)
def test_families_in_words(family, title):
    assert family_title(read(default(family)).model) == title


@pytest.mark.slow
def test_fewer_held_out_batches_are_said(trained, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    text = output(["quantize", f"--workdir={workdir}", "--scheme=w8a8", "--config.training.eval_batches=3"], capsys)
    assert "first 3 of 8 held-out batches" in text
    assert [m["held_out_batches"] for m in measurements(workdir)] == [{"used": 3, "of": 8}] * 2
    assert {m["values"]["predictions"] for m in measurements(workdir)} == {3 * 128 * 8}


@pytest.mark.parametrize(
    "arguments",
    [
        ["checkpoint", "--workdir", "folder"],
        ["--workdir", "folder", "checkpoint"],
        ["--workdir=folder", "checkpoint"],
        ["--config.seed", "3", "checkpoint", "--workdir=folder"],
    ],
)
def test_a_checkpoint_may_stand_anywhere_among_the_flags(arguments):
    found, others = take_argument(arguments, "import", COMMANDS["import"])
    assert found == "checkpoint" and sorted([found, *others]) == sorted(arguments)


def test_a_checkpoint_may_follow_a_flag_without_a_value():
    assert take_argument(["--config.training.decay_norm_scale", "it"], "import", COMMANDS["import"])[0] == "it"
