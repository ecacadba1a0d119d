"""The pooling that a checkpoint's modules say: recorded by the import, measured by, and inherited."""

from __future__ import annotations

import json

import flax.linen as nn
import jax
import pytest

from qtx.experiment import default, read
from qtx.families import build
from qtx.foundation.config import section
from qtx.interop import save
from qtx.losses import EmbeddingDistillation
from qtx.models import BertConfig
from qtx.pipeline.importing import Found, config_of_checkpoint, import_run
from qtx.pipeline.inheritance import inheriting
from qtx.pipeline.lineage import config_of
from qtx.pipeline.measurements import as_result
from qtx.training import RunFolder
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
