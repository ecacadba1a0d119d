"""From a checkpoint of texts to a run: imported, measured, healed, taken out again, by the command line."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qtx import interop
from qtx.attention import attention_variant
from qtx.builtin import builtin_checkpoint
from qtx.cli.flags import run_of
from qtx.cli.main import main
from qtx.experiment import from_record, read
from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.interop.contents import digest_of_folder
from qtx.models import BertConfig, OptConfig
from qtx.pipeline.importing import Found, config_of_checkpoint, stored_model
from qtx.pipeline.lineage import check_unchanged
from qtx.training import RunFolder, load_params, read_metrics
from qtx.training.run_folder import IDENTITY

PATIENT = builtin_checkpoint("minilm-2l")
VOCABULARY = len((PATIENT / "vocab.txt").read_text().splitlines())
SHAPE = dict(num_layers=2, width=8, num_heads=2, mlp_width=16, init_std=0.3)
ENCODER = BertConfig(**SHAPE, vocab_size=VOCABULARY, max_length=32, head="none")
SHORT = [
    "--config.data.sequence_length=16",
    "--config.mesh.data=1",
    "--config.training.batch_size=4",
    "--config.training.eval_batches=2",
]
HEAL = [
    *("--config.training.steps=3", "--config.training.warmup_steps=1", "--config.training.outliers_every=9"),
    "--config.training.penalties=('hinge,sites=layers/mlp/out,weight=0.001,tau=2',)",
]


def folder_of(config, path):
    """A checkpoint of random weights, with the patient's tokenizer."""
    params = nn.unbox(build(config).init(jax.random.key(0), config.example())["params"])
    interop.save(path, config, jax.tree.map(np.asarray, params))
    shutil.copy(PATIENT / "vocab.txt", path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return folder_of(ENCODER, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def imported(checkpoint, tmp_path_factory):
    """The folder of a run that was imported, and its checkpoint."""
    workdir = tmp_path_factory.mktemp("runs") / "original"
    assert main(["import", str(checkpoint), f"--workdir={workdir}", *SHORT]) == 0
    return workdir


def trees_equal(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, nn.unbox(one), nn.unbox(other)))


def told(arguments, capsys):
    capsys.readouterr()
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("qtx: error: ") and message.count("\n") == 1, message
    return message


def test_the_run_has_the_checkpoints_model_tokenizer_and_files(imported, checkpoint):
    experiment = read(from_record(RunFolder(imported).read_config(), "here"))
    assert (experiment.family, experiment.objective) == ("bert", "distill")
    assert experiment.model == ENCODER
    assert "[CLS]" in (imported / "tokenizer.json").read_text()
    files = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    assert {file.name: file.read_bytes() for file in (imported / "imported").iterdir()} == files
    again = read(from_record(RunFolder(imported).read_config(), "here"))
    data = type("Data", (), {"evaluation": lambda self, rows: iter([again.model.example()])})()
    assert trees_equal(load_params(build(again.model), data, imported), interop.load(checkpoint)[1])


@pytest.mark.slow
def test_imported_again_it_is_the_same_run(imported, checkpoint):
    before = (imported / "config.json").read_bytes()
    assert main(["import", str(checkpoint), f"--workdir={imported}", *SHORT]) == 0
    assert (imported / "config.json").read_bytes() == before


@pytest.mark.slow
def test_a_refused_import_leaves_nothing_and_a_killed_one_is_no_obstacle(checkpoint, tmp_path, capsys):
    command = ["import", str(checkpoint), f"--workdir={tmp_path}/run", *SHORT]
    assert "batch_size 4 is not divisible" in told([*command, "--config.mesh.data=3"], capsys)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run" / ".imported.999999999").mkdir(parents=True)
    assert main(command) == 0
    assert not list((tmp_path / "run").glob(".imported*")) and (tmp_path / "run" / "config.json").exists()
    (tmp_path / "other" / f".imported.{os.getpid()}").mkdir(parents=True)  # of an import that is at work
    assert "is not empty" in told([*command[:2], f"--workdir={tmp_path}/other", *SHORT], capsys)


def test_an_import_asks_for_no_other_model_and_no_other_data(checkpoint, imported, tmp_path, capsys):
    command = ["import", str(checkpoint), *SHORT]
    new = [*command, f"--workdir={tmp_path}/new"]
    assert "config.model.num_heads is not what the checkpoint has, 2" in told(
        [*new, "--config.model.num_heads=4"], capsys
    )
    assert "has, softmax: leave it out" in told([*new, "--config.model.attention=gated_linear"], capsys)
    assert not (tmp_path / "new").exists()
    other = told([*command, f"--workdir={imported}", "--config.data.min_length=8"], capsys)
    assert "data.min_length (None there, 8 here)" in other


@pytest.mark.slow
def test_an_import_names_the_length_that_the_attention_is_relative_to(checkpoint, tmp_path, capsys):
    """Or is asked for it: of a checkpoint whose own note lacks it, and of one from elsewhere, whose file has none."""
    clipped = dataclasses.replace(ENCODER, attention=attention_variant("clipped_softmax,alpha=2,length=9"))
    folder = folder_of(clipped, tmp_path / "noted")
    assert config_of_checkpoint(Found(folder, "a test")).model.attention.length == 9
    values = json.loads((folder / "config.json").read_text())
    del values["qtx_attention"]["length"]
    (folder / "config.json").write_text(json.dumps(values))
    asked = "name it, e.g. --config.model.attention.length=128"
    command = ["import", str(folder), f"--workdir={tmp_path}/run", *SHORT]
    assert asked in told(command, capsys)
    other = ["import", str(checkpoint), f"--workdir={tmp_path}/run", *SHORT]
    assert asked in told([*other, "--config.model.attention=clipped_softmax,alpha=2"], capsys)
    named = stored_model(checkpoint, attention_variant("clipped_softmax,alpha=2,length=9"))
    assert named == stored_model(folder, named.attention) == clipped
    capsys.readouterr()
    assert main([*command, "--config.model.attention.length=9"]) == 0
    summary = capsys.readouterr().out
    assert f"\nimported: from {folder}\n" in summary and "\ntraining: " not in summary
    assert read(from_record(RunFolder(tmp_path / "run").read_config(), "here")).model == clipped


def test_a_teacher_that_has_changed_is_refused(checkpoint, imported, tmp_path):
    original, pupil = tmp_path / "original", tmp_path / "pupil"
    shutil.copytree(imported, original)
    began = {"start": digest_of_folder(original / "imported")}
    there = RunFolder(original).read_config()
    RunFolder(pupil).claim({**there, "start": str(original), IDENTITY: {**there[IDENTITY], **began}})
    check_unchanged(pupil, original)
    _, params = interop.load(checkpoint)
    interop.save(original / "imported", ENCODER, jax.tree.map(lambda x: 2 * x, params))
    with pytest.raises(QtxError, match="started from .*original, whose parameters have changed since"):
        check_unchanged(pupil, original)


def test_a_file_in_the_way_is_told_in_a_line(imported, tmp_path, capsys):
    shutil.copytree(imported, tmp_path / "run")
    (tmp_path / "run" / "export").write_text("in the way")
    message = told(["export", "--format=huggingface", f"--workdir={tmp_path}/run", *SHORT], capsys)
    assert f"{tmp_path}/run/export" in message and "irectory" in message


def test_a_built_in_start_is_that_checkpoint(imported, tmp_path):
    shutil.copytree(imported, tmp_path / "minilm-2l")
    with pytest.raises(QtxError, match="holds another run: give the folder"):
        run_of("builtin:minilm-2l", tmp_path / "healed")


@pytest.mark.slow
def test_it_is_measured_by_what_it_was_and_exported_as_it_came(imported, checkpoint):
    assert (
        main(["quantize", f"--workdir={imported}", "--scheme=w4a4", "--config.quantization.calibration_batches=2"]) == 0
    )
    floating, w4a4 = json.loads((imported / "results.json").read_text())["measurements"]
    assert floating["values"]["fidelity"] == pytest.approx(1, abs=1e-6) and floating["values"]["loss"] < 1e-10
    assert w4a4["values"]["fidelity"] < 0.999 and w4a4["values"]["loss"] > 1e-3
    assert main(["export", "--format=huggingface", f"--workdir={imported}"]) == 0
    out = imported / "export" / "huggingface"
    assert trees_equal(interop.load(out)[1], interop.load(checkpoint)[1])
    assert json.loads((out / "config.json").read_text()) == json.loads((checkpoint / "config.json").read_text())


@pytest.mark.slow
def test_healing_starts_as_the_original_and_leaves_in_its_format(imported, tmp_path):
    command = ["train", "--config=configs/heal_bert.py", f"--config.start={imported}", f"--workdir={tmp_path}/healed"]
    command += [*SHORT, *HEAL, "--config.model.attention=gated_linear"]
    assert main(command) == 0
    before, *_, after = read_metrics(tmp_path / "healed", "eval")
    assert before["step"] == 0 and before["fidelity"] == pytest.approx(1, abs=1e-6) and before["loss"] < 1e-9
    assert after["step"] == 3 and after["fidelity"] < 1 - 1e-6
    assert read_metrics(tmp_path / "healed", "train")[-1]["penalty/hinge"] >= 0
    assert main(["evaluate", f"--workdir={tmp_path}/healed"]) == 0
    assert main(["export", "--format=int8", "--scheme=w8a8", f"--workdir={tmp_path}/healed"]) == 0
    assert main(["evaluate", f"--workdir={tmp_path}/healed/export/int8"]) == 0
    assert main(["export", "--format=huggingface", f"--workdir={tmp_path}/healed"]) == 0
    config, _ = interop.load(tmp_path / "healed" / "export" / "huggingface")
    trained = read(from_record(RunFolder(tmp_path / "healed").read_config(), "here"))
    assert config.attention.gate == trained.model.attention.gate
    # Trained under quantizers from there, it still learns from the original.
    quantized = [*command[:2], f"--config.start={tmp_path}/healed", f"--workdir={tmp_path}/qat", *SHORT, *HEAL]
    through = [*quantized, "--config.qat.scheme=w8a8", "--config.qat.noise="]
    assert main([*through, "--config.quantization.calibration_batches=2"]) == 0
    assert read_metrics(tmp_path / "qat", "eval")[0]["fidelity"] < 1


@pytest.mark.representative("-config.start is empty", "-exceeds*")
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (["import", "nowhere", "--workdir={new}"], "no checkpoint nowhere"),
        (["import", "builtin:minilm", "--workdir={new}"], "did you mean 'minilm-2l'"),
        (["import", "--workdir={new}"], "import needs a checkpoint"),
        (
            ["import", "{checkpoint}", "--workdir={new}", "--config.data.sequence_length=64"],
            "exceeds config.model.max_length 32",
        ),
        (["import", "builtin:minilm-2l", "--workdir={run}"], "holds another run"),
        (["train", "--config=configs/heal_bert.py", "--workdir={new}"], "config.start is empty"),
        (
            ["train", "--config=configs/heal_bert.py", "--workdir={new}", "--config.start=nowhere"],
            "nowhere is not a run's folder",
        ),
        (
            [
                "train",
                "--config=configs/heal_bert.py",
                "--workdir={new}",
                "--config.start={run}",
                "--config.model.attention=none",
            ],
            "config.start={run}: ",
        ),
        (
            [
                "train",
                "--config=configs/heal_bert.py",
                "--workdir={new}",
                "--config.start={run}",
                "--config.model.width=16",
            ],
            "another model: model.width (8 there, 16 here)",
        ),
        (
            ["train", "--config=configs/wikitext2_opt.py", "--workdir={new}", "--config.start={run}"],
            "a run of the bert family, but config.family is 'opt'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused(change, expected, imported, checkpoint, tmp_path, capsys):
    names = {"new": f"{tmp_path}/new", "run": str(imported), "checkpoint": str(checkpoint)}
    message = told([argument.format(**names) for argument in change] + ([] if "import" in change else SHORT), capsys)
    assert expected.format(**names) in message
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_runs_that_start_from_each_other_are_refused(imported, tmp_path, capsys):
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder, other in zip(folders, reversed(folders), strict=True):
        folder.mkdir()
        shutil.copy(imported / "tokenizer.json", folder)
        RunFolder(folder).write_config({**RunFolder(imported).read_config(), "start": str(other)})
    message = told(["evaluate", f"--workdir={folders[0]}"], capsys)
    assert "leads back to itself" in message


@pytest.mark.parametrize(
    "broken", ["vocab.txt", "model.safetensors", "config.json", pytest.param("a number", marks=pytest.mark.slow)]
)
def test_half_a_checkpoint_leaves_nothing(broken, checkpoint, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    if broken == "a number":
        tensors = load_file(copy / "model.safetensors")
        tensors[min(tensors)].flat[0] = np.nan
        save_file(tensors, copy / "model.safetensors")
    else:
        (copy / broken).unlink()
    assert str(copy) in told(["import", str(copy), f"--workdir={tmp_path}/run"], capsys)
    assert not (tmp_path / "run").exists()


def with_files(checkpoint, folder, **files):
    """A copy of a checkpoint, with more files of JSON."""
    shutil.copytree(checkpoint, folder)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.slow
def test_a_vocabulary_with_more_entries_than_the_table(checkpoint, tmp_path, capsys):
    copy = with_files(checkpoint, tmp_path / "copy", added_tokens={"onemore": VOCABULARY})
    (tmp_path / "rows.tsv").write_text("text\tlabel\nthe text\tx\na text\ty\n" * 8)
    rows = [f"--config.data.{name}=('{tmp_path}/rows.tsv',)" for name in ("files", "validation_files")]
    command = ["import", str(copy), f"--workdir={tmp_path}/run", *SHORT, "--config.data.source=text_labels", *rows]
    assert main(command) == 0
    assert RunFolder(tmp_path / "run").read_config()["model"]["vocab_size"] == VOCABULARY
    (tmp_path / "rows.tsv").write_text("text\tlabel\nthe onemore text\tx\na text\ty\n")
    other = ["evaluate", f"--workdir={tmp_path}/run", *rows]  # the run's folder is enough to tell
    for message in (told([*command, f"--workdir={tmp_path}/new"], capsys), told(other, capsys)):
        assert f"text 'the onemore text' has the token 'onemore', number {VOCABULARY}" in message
    assert not (tmp_path / "new").exists()
    other = [
        *command[:2],
        f"--workdir={tmp_path}/new",
        *SHORT,
        "--config.data.tokenizer=bpe",
        "--config.data.vocab_size=2000",
    ]
    assert "leave it out" not in told(other, capsys)


@pytest.mark.slow
def test_texts_are_as_long_as_the_files_say_and_a_run_keeps_what_they_say(checkpoint, imported, tmp_path, capsys):
    files = {"sentence_bert_config": {"max_seq_length": 12, "do_lower_case": True}}
    files |= {"tokenizer_config": {"model_max_length": 20, "do_lower_case": False, "pad_token": "the"}}
    copy, run = with_files(checkpoint, tmp_path / "copy", **files), tmp_path / "run"
    command = ["import", str(copy), f"--workdir={run}", *SHORT[1:]]
    long = told([*command, "--config.data.sequence_length=16"], capsys)
    assert f"{copy}/sentence_bert_config.json says that texts have at most 12 tokens: set it to 12 or less" in long
    assert main(command) == 0
    there = RunFolder(run).read_config()
    assert there["data"]["sequence_length"] == 12
    assert {"tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json"} <= {x.name for x in run.iterdir()}
    (run / "tokenizer_config.json").unlink()  # the run is then another one
    assert "was trained on other data" in told(["evaluate", f"--workdir={run}"], capsys)
    assert not (imported / "tokenizer_config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        BertConfig(**SHAPE, vocab_size=VOCABULARY, max_length=32),
        OptConfig(**SHAPE, vocab_size=VOCABULARY, max_length=32),
    ],
)
def test_models_with_a_language_head_are_measured_by_their_own_objective(config, tmp_path):
    workdir = tmp_path / "run"
    assert main(["import", str(folder_of(config, tmp_path / "there")), f"--workdir={workdir}", *SHORT]) == 0
    assert read(from_record(RunFolder(workdir).read_config(), "here")).objective in ("mlm", "clm")
    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    assert json.loads((workdir / "results.json").read_text())["metric"] == "perplexity"
