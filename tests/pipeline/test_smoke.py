"""`--config=FILE:smoke`: every config at a size that any machine trains in about a minute, with nothing left out."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from qtx.attention import VARIANTS
from qtx.cli.flags import load_config_file, parse
from qtx.cli.main import main
from qtx.experiment import read
from qtx.foundation.config import flattened
from qtx.foundation.errors import QtxError
from qtx.pipeline.assemble import assemble
from qtx.pipeline.smoke import NEEDS_NO_FILES
from qtx.pipeline.train import train
from qtx.training import read_metrics

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))
AUGMENTATION = ("random_resized_crop", "flip", "randaugment_layers", "color_jitter", "mixup", "cutmix")
KEPT = {
    "model": ("dtype", "remat", "dropout", "init_std", "pre_norm", "patch_norm"),
    "data": (*AUGMENTATION, "mask_probability"),
    "training": ("optimizer", "learning_rate", "schedule", "weight_decay", "decay_norm_scale", "label_smoothing"),
    "quantization": ("recipe", "method", "weight_estimator", "activation_estimator"),
}


@pytest.mark.representative("heal_bert", "vit_b16")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_shrinks_and_keeps_what_it_is_about(path):
    for variant in (*VARIANTS, "clipped_softmax,alpha=2,gamma_warmup_steps=100"):
        full = read(load_config_file(f"{path}:{variant}"))
        small = read(load_config_file(f"{path}:{variant}:smoke"))
        assert small.name == f"{full.name}_smoke"
        attention, shrunk = flattened(full.model.attention), flattened(small.model.attention)
        assert bool(attention.pop("gamma_warmup_steps")) == bool(shrunk.pop("gamma_warmup_steps"))
        # What alpha is relative to, each of its own data.
        lengths = {"small": shrunk.pop("length"), "full": attention.pop("length")}
        for experiment, length in zip((small, full), lengths.values(), strict=True):
            assert length in (None, getattr(experiment.data.source, "sequence_length", None))
        assert shrunk == attention
    for section, names in KEPT.items():
        for name in names:
            options = [flattened(getattr(experiment, section)).get(name) for experiment in (full, small)]
            assert options[0] == options[1], name
    assert (small.objective, bool(small.start)) == (full.objective, full.objective == "distill")
    assert small.data.name in NEEDS_NO_FILES
    if small.model.reads == "images":
        assert small.data.source.image_size is None, "the digits have 8 x 8 pixels, whatever the config is for"
    assert getattr(small.model, "projected", False) == getattr(full.model, "projected", False)
    assert small.start or small.model.num_layers * small.model.width <= 64
    assert small.training.steps <= 20
    assert 0 < small.training.warmup_steps < 5 or full.training.warmup_steps == 0


def test_smoke_alone_is_the_default_variant_and_takes_overrides():
    path = str(CONFIGS[0])
    assert load_config_file(f"{path}:smoke").to_dict() == load_config_file(f"{path}:softmax:smoke").to_dict()
    config, _ = parse([f"--config={path}:smoke", "--config.training.steps=3", "--config.model.vocab_size=600"])
    assert (read(config).training.steps, read(config).model.vocab_size) == (3, 600)


def test_a_config_that_is_wrong_at_its_full_size_is_refused(tmp_path):
    text = (CONFIGS[0]).read_text().replace("    return config", "    config.model.num_heads = 5\n    return config")
    (tmp_path / "wrong.py").write_text(text)
    with pytest.raises(QtxError, match="not divisible by num_heads 5"):
        load_config_file(f"{tmp_path / 'wrong.py'}:smoke")


@pytest.mark.long
@pytest.mark.parametrize("name", ["vit_s16", "opt_350m"])
def test_a_smoke_test_trains(name, tmp_path):
    small = read(load_config_file(str(CONFIGS[0].with_name(f"{name}.py")) + ":gated_linear:smoke"))
    training = dataclasses.replace(small.training, steps=2, warmup_steps=1)
    result = train(assemble(dataclasses.replace(small, training=training)), tmp_path)
    assert math.isfinite(result.metrics["loss"])


@pytest.mark.long
def test_healing_heals_the_builtin_model_beside_the_run(tmp_path):
    command = ["train", "--config=heal_bert:smoke", f"--workdir={tmp_path}/runs/healed", "--config.mesh.data=1"]
    assert main(command) == 0
    assert (tmp_path / "runs" / "minilm-2l" / "imported" / "model.safetensors").is_file()
    before, *_, after = read_metrics(tmp_path / "runs" / "healed", "eval")
    assert before["fidelity"] == pytest.approx(1, abs=1e-6) and 0.9 < after["fidelity"] < 1 - 1e-6
