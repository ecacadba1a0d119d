"""From a checkpoint of images to a run, which takes over its pixels: measured, healed, taken out again."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from qtx import interop
from qtx.cli.flags import parse
from qtx.cli.main import main
from qtx.data.images import IMAGENET
from qtx.data.sources import ImageCorpus
from qtx.data.sources.photographs import Photographs
from qtx.experiment import read, record
from qtx.pipeline.importing import config_of_checkpoint, found
from qtx.training import RunFolder, read_metrics
from tests.interop.kinds import IMAGE, KINDS, PATCH, TIMM, WIDTH, Kind, timm_vit
from tests.pipeline.test_import import HEAL

SAYS = {"size": 8, "do_center_crop": False, "resample": 3, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5]}
PIXELS = {"image_size": IMAGE, "channels": 3, "crop_ratio": 1.0, "crop_mode": "squash", "interpolation": "bicubic"}


@pytest.mark.parametrize(
    "name", ["ViTForImageClassification", "ViTModel", "timm's ViT", "timm's ViT, without a classifier"]
)
def test_a_vit_is_measured_by_itself_on_photographs_and_takes_its_pixels_to_other_images(name, tmp_path):
    KINDS[name].write(tmp_path)
    pixels = PIXELS | {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}
    if name.startswith("timm"):
        pixels |= {"crop_ratio": 0.875, "crop_mode": "center", **IMAGENET}
    else:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(SAYS))
    checkpoint = found(str(tmp_path))
    alone = read(config_of_checkpoint(checkpoint))
    assert (alone.objective, alone.data.source) == ("distill", Photographs(**pixels))
    # Also what is at the default of the one source, and not of the other.
    base = config_of_checkpoint(checkpoint, names_source=True)
    named = ["--config.data.source=image_corpus", "--config.data.corpus=x", "--config.data.std=(1.,1.,1.)"]
    others = read(parse(named, base=base)[0])
    assert others.data.source == ImageCorpus(corpus="x", **{**pixels, "std": (1.0, 1.0, 1.0)})
    assert others.objective == ("classification" if KINDS[name].fields["head"] == "classification" else "distill")


def test_a_backbone_gets_a_classifier_and_keeps_its_pixels(tmp_path):
    KINDS["ViTModel"].write(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(SAYS))
    RunFolder(tmp_path / "run").claim(record(read(config_of_checkpoint(found(str(tmp_path / "vit"))))))
    (tmp_path / "vit.py").write_text(
        "from qtx.experiment import default\n\n\ndef get_config():\n    return default('vit')\n"
    )
    start = [f"--config={tmp_path}/vit.py", f"--config.start={tmp_path}/run"]
    named = ["--config.data.source=image_corpus", "--config.data.corpus=x", "--config.data.std=(1.,1.,1.)"]
    tuned = read(parse([*start, *named])[0])
    assert (tuned.objective, tuned.model.head, tuned.model.num_classes) == ("classification", "classification", None)
    assert tuned.model.width == WIDTH
    pixels = {**PIXELS, "mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0)}
    assert tuned.data.source == ImageCorpus(corpus="x", **pixels)


@pytest.mark.long
def test_a_vit_without_a_head_is_measured_healed_and_exported_without_data_of_its_own(tmp_path, capsys):
    KINDS["ViTModel"].write(tmp_path / "vit")
    few = ["--config.training.batch_size=8", "--config.training.eval_batches=1", "--config.mesh.data=1"]
    calibration = "--config.quantization.calibration_batches=2"
    run, healed = tmp_path / "run", tmp_path / "healed"
    assert main(["import", str(tmp_path / "vit"), f"--workdir={run}", *few, calibration]) == 0
    assert "crops at 6 x 6 x 3 of two photographs" in capsys.readouterr().out
    assert main(["quantize", f"--workdir={run}", "--scheme=w4a4"]) == 0
    floating, w4a4 = json.loads((run / "results.json").read_text())["measurements"]
    assert floating["values"]["fidelity"] == pytest.approx(1, abs=1e-6) and w4a4["values"]["fidelity"] < 0.9999
    (tmp_path / "heal.py").write_text(
        "from qtx.experiment import default\n\n\ndef get_config():\n    config = default('vit')\n"
        "    config.objective = 'distill'\n    config.data.source = 'photographs'\n"
        f"    config.data.image_size = {IMAGE}\n    return config\n"
    )
    train = ["train", f"--config={tmp_path}/heal.py", f"--config.start={run}", f"--workdir={healed}", *few]
    assert main([*train, *HEAL]) == 0
    before, *_, after = read_metrics(healed, "eval")
    assert before["fidelity"] == pytest.approx(1, abs=1e-6) and after["fidelity"] < 1 - 1e-7
    for folder in (run, healed):
        assert main(["export", "--format=huggingface", f"--workdir={folder}"]) == 0
        tensors = load_file(folder / "export" / "huggingface" / "model.safetensors")
        assert tensors.keys() == KINDS["ViTModel"].shapes.keys()
        assert not (folder / "export" / "huggingface" / "preprocessor_config.json").exists()
    same = load_file(run / "export" / "huggingface" / "model.safetensors")
    assert all(np.array_equal(same[name], x) for name, x in load_file(tmp_path / "vit" / "model.safetensors").items())


@pytest.mark.slow
def test_a_vit_of_timm_with_a_gate_leaves_as_transformers(tmp_path, capsys):
    side, classes = 8, 10  # those of the built-in images
    arguments = {**TIMM["model_args"], "img_size": side, "in_chans": 1}
    shapes = timm_vit() | {
        "pos_embed": (1, (side // PATCH) ** 2 + 1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 1, PATCH, PATCH),
        "head.weight": (classes, WIDTH),
        "head.bias": (classes,),
    }
    Kind({**TIMM, "num_classes": classes, "model_args": arguments}, shapes, {}).write(tmp_path / "timm")
    data = ["--config.data.source=digits", "--config.data.mean=(.5,)", "--config.data.std=(.5,)"]
    assert main(["import", str(tmp_path / "timm"), f"--workdir={tmp_path}/imported", *data]) == 0
    names = ["training.steps", "training.warmup_steps", "training.eval_every", "training.checkpoint_every"]
    short = [f"--config.{name}={value}" for name, value in zip(names, (2, 1, 2, 2), strict=True)]
    (tmp_path / "vit.py").write_text(
        "from qtx.experiment import default\n\n\ndef get_config():\n    return default('vit')\n"
    )
    command = ["train", f"--config={tmp_path}/vit.py", f"--config.start={tmp_path}/imported"]
    assert main([*command, f"--workdir={tmp_path}/run", *short, "--config.model.attention=gated_linear"]) == 0
    assert main(["export", "--format=huggingface", f"--workdir={tmp_path}/run"]) == 0
    assert "kind that computes the plain softmax alone: this is a checkpoint of transformers" in capsys.readouterr().out
    out = tmp_path / "run" / "export" / "huggingface"
    values, model = json.loads((out / "config.json").read_text()), interop.load(out)[0]
    assert model.attention.gate is not None and model.num_classes == classes
    assert values["model_type"] == "vit" and list(values["id2label"].values()) == [str(i) for i in range(10)]
    # The digits' brightest value is 16; of timm's crop_pct, 0.875, 8 of 9 pixels are seen.
    processor = json.loads((out / "preprocessor_config.json").read_text())
    assert (processor["size"], processor["image_mean"]) == ({"shortest_edge": 9}, [pytest.approx(0.5 * 16 / 255)])
