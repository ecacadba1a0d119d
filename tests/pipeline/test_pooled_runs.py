"""The pooling that a checkpoint's modules say: recorded by the import, measured by, and inherited."""

from __future__ import annotations

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qtx.cli.main import main
from qtx.experiment import default, read
from qtx.families import build
from qtx.foundation.config import section
from qtx.foundation.errors import QtxError
from qtx.interop import load, save
from qtx.interop.stored import open_folder
from qtx.losses import EmbeddingDistillation
from qtx.models import BertConfig, differing_options
from qtx.pipeline.importing import Found, config_of_checkpoint, import_run
from qtx.pipeline.inheritance import inheriting
from qtx.pipeline.lineage import config_of
from qtx.pipeline.measurements import as_result
from qtx.training import RunFolder
from qtx.training.run_folder import differences
from tests.training.test_labels import SHAPE, VOCABULARY, data_config

MODULES = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]


@pytest.fixture
def checkpoint(tmp_path):
    folder, config = tmp_path / "checkpoint", BertConfig(**SHAPE, head="none")
    save(folder, config, nn.unbox(jax.jit(build(config).init)(jax.random.key(0), config.example())["params"]))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in MODULES]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": "lasttoken"}))
    return Found(folder, "a test")


def test_the_centred_fidelity_of_each_scheme_is_in_the_result():
    head = {"variant": "softmax", "seed": 0, "parameters": 1, "metric": "fidelity"}
    measured = [
        {"scheme": scheme, "method": "static", "checkpoint": 0, "values": {"fidelity": x, "loss": 0.1, **more}}
        for scheme, x, more in (
            ("fp", 1.0, {"centred_fidelity": 1.0, "seconds": 1}),
            ("w8a8", 0.997, {"centred_fidelity": 0.06}),
        )
    ]
    found = as_result(head, measured)
    assert (found["quantized"], found["quantized_centred_fidelity"]) == ({"w8a8": 0.997}, {"w8a8": 0.06})
    del measured[1]["values"]["centred_fidelity"]  # of an earlier version
    assert "quantized_centred_fidelity" not in as_result(head, measured)


@pytest.mark.slow
def test_a_run_is_measured_by_what_the_modules_say(tmp_path, checkpoint):
    config = config_of_checkpoint(checkpoint).unlock()
    config.data = section(data_config(tmp_path, tokenizer=str(checkpoint.folder)))
    run = RunFolder(tmp_path / "run")
    prepared = import_run(read(config), run.root, checkpoint)
    assert prepared.objective.loss == EmbeddingDistillation(prepared.module.config)
    assert (prepared.module.config.pooling, prepared.module.config.normalize) == ("lasttoken", True)
    there = config_of(str(run.root)).model
    assert (there.pooling, there.normalize) == ("lasttoken", True)
    # A run that starts from it too.
    healing = default("bert").unlock()
    healing.start, healing.objective, healing.data = str(run.root), "distill", config.data
    started = read(inheriting(healing.lock())).model
    assert (started.pooling, started.normalize) == ("lasttoken", True)
    # An earlier version recorded none: that run is told when it is imported again.
    record = run.read_config()
    earlier = {name: value for name, value in record["model"].items() if name not in ("pooling", "normalize")}
    run.write_config({**record, "model": earlier})
    assert config_of(str(run.root)).model.pooling == "mean"
    import_run(read(config), run.root, checkpoint)
    assert config_of(str(run.root)).model == there
    # Who knows better says so.
    config.model.pooling = "cls"
    another = import_run(read(config), tmp_path / "another", checkpoint)
    assert another.objective.loss == EmbeddingDistillation(another.module.config)
    assert (another.module.config.pooling, another.module.config.normalize) == ("cls", True)


@pytest.mark.parametrize("option, value", [("pooling", "cls"), ("normalize", True), ("include_prompt", False)])
def test_what_modules_follow_is_computed_by_the_model(option, value):
    """Without modules these options say how the model is measured, which may change in a run and after its start."""
    for modules, differs in (("", []), ("dense,outputs=5", [option])):
        one = BertConfig(head="none", modules=modules)
        other = dataclasses.replace(one, **{option: value})
        assert differing_options(one, other) == differing_options(other, one) == differs
        told = differences(*({"model": section(x).to_dict()} for x in (one, other)))
        assert [key.partition(" ")[0] for key in told] == [f"model.{name}" for name in differs]


HALF = np.float16


@pytest.fixture
def with_dense(checkpoint):
    """The checkpoint with a dense layer between pooling and normalization, of half precision, and a prompt."""
    folder = checkpoint.folder
    listed = json.loads((folder / "modules.json").read_text())
    listed[2:2] = [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense/config.json").write_text(json.dumps({"in_features": 8, "out_features": 5}))
    rng = np.random.default_rng(0)
    weights = {"linear.weight": rng.normal(size=(5, 8)).astype(HALF), "linear.bias": rng.normal(size=5).astype(HALF)}
    save_file(weights, folder / "2_Dense/model.safetensors")
    prompts = {"prompts": {"query": "a . ", "other": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return checkpoint


@pytest.mark.long
def test_dense_layers_and_prompts_go_through_everything(tmp_path, with_dense, capsys):
    folder, run, healed = with_dense.folder, str(tmp_path / "run"), str(tmp_path / "healed")
    config, params = load(folder)
    assert config.modules == "dense,outputs=5" and params["head"]["dense_0"]["kernel"].shape == (8, 5)
    save(tmp_path / "again", config, params, original=folder)
    expected, found = (load_file(place / "2_Dense/model.safetensors") for place in (folder, tmp_path / "again"))
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert found[name].dtype == x.dtype and found[name].tobytes() == x.tobytes()
    with pytest.raises(QtxError, match="modules is 'dense,outputs=5'"):
        save(tmp_path / "anew", config, params)

    small = ["--config.data.sequence_length=16", "--config.mesh.data=1", "--config.training.eval_batches=2"]
    small += ["--config.training.batch_size=8"]
    assert main(["import", str(folder), f"--workdir={run}", *small]) == 0
    assert "lasttoken, dense to 5 (Tanh), normalized" in capsys.readouterr().out
    assert config_of(run).data.source.prompt == "query"
    strict = ["--config.quantization.recipe=strict"]
    assert main(["quantize", f"--workdir={run}", *strict]) == 0
    assert main(["export", f"--workdir={run}", "--format=int8", *strict]) == 0
    told = capsys.readouterr().out
    assert "matrix products in floating point: head/dense_0\n" in told
    few = ["--config.training.steps=2", "--config.training.warmup_steps=1", "--config.training.learning_rate=0.01"]
    heal = ["--config=configs/heal_bert.py", f"--config.start={run}", "--config.model.attention=softmax", *small, *few]
    assert main(["train", *heal, f"--workdir={healed}"]) == 0
    assert config_of(healed).data.source.prompt == "query"
    assert main(["export", "--format=huggingface", f"--workdir={healed}"]) == 0
    out = RunFolder(tmp_path / "healed").root / "export/huggingface"
    trained = load_file(out / "2_Dense/model.safetensors")
    assert {name: x.dtype for name, x in trained.items()} == {name: x.dtype for name, x in expected.items()}
    assert any((trained[name] != x).any() for name, x in expected.items())
    for name in ("config_sentence_transformers.json", "2_Dense/config.json", "modules.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert differing_options(open_folder(out).config(None), open_folder(folder).config(None)) == []
