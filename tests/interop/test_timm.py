"""timm's ViT and qtx's, through a folder on disk."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys
import types

import jax
import numpy as np
import pytest

from qtx.families import build
from qtx.interop import load, save


class Named(type):
    """A class of any name, which has classes of any name."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Named(name, (), {})


class NoTorchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """timm imports torchvision, whose wheel needs a torch with CUDA, for transforms and layers that a ViT has not."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: getattr(Named("torchvision", (), {}), name)
        return module

    def exec_module(self, module):
        pass


sys.meta_path.append(NoTorchvision())
try:
    import timm
    import torch
    from timm.models import save_for_hf
except ImportError as error:
    if os.environ.get("QTX_REQUIRE_TRANSFORMERS"):
        raise
    pytest.skip(f"needs torch and timm: {error}", allow_module_level=True)
finally:
    sys.meta_path.pop()
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]

SMALL = {"img_size": 32, "depth": 2, "num_classes": 5}
MODELS = {
    "vit_tiny_patch16_224": SMALL,
    "vit_small_patch32_224": {**SMALL, "img_size": 64, "in_chans": 1},
    "deit_tiny_patch16_224": {**SMALL, "embed_dim": 48, "num_heads": 4, "mlp_ratio": 3.0},
}


def made(name, **options):
    torch.manual_seed(0)
    model = timm.create_model(name, **options)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_those_of_timm(tmp_path, name):
    model = made(name, **MODELS[name])
    save_for_hf(model, tmp_path / "theirs", safe_serialization=True)
    config, params = load(tmp_path / "theirs")
    shape = (2, config.image_size, config.image_size, config.channels)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    with jax.default_matmul_precision("highest"):
        found = build(config).apply({"params": params}, {"images": images})
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())

    save(tmp_path / "again", config, params, original=tmp_path / "theirs")
    again = timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).eval()
    ours, theirs = again.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_the_sizes_of_the_architectures_are_timms(tmp_path):
    """Without model_args, as the first checkpoints are; no weights are made."""
    from qtx.families.checkpoints.timm import SIZES, options

    patches = {"tiny": 16, "small": 16, "base": 16, "large": 16, "huge": 14, "giant": 14, "gigantic": 14}
    for size, patch in patches.items():
        name = f"vit_{size}_patch{patch}_224"
        with torch.device("meta"):
            model = timm.create_model(name)
        found = options({"architecture": name, "num_classes": 1000}, "config.json")
        assert (found["embed_dim"], found["depth"]) == (model.embed_dim, len(model.blocks))
        assert found["num_heads"] == model.blocks[0].attn.num_heads
        assert found["mlp_width"] == model.blocks[0].mlp.fc1.out_features
        assert (found["img_size"], found["patch_size"]) == (224, patch)
    assert patches.keys() == SIZES.keys()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_small_patch14_reg4_dinov2", "architecture is"),
        ("deit_tiny_distilled_patch16_224", "architecture is"),
        ("deit3_small_patch16_224", "architecture is"),
        ("vit_base_patch16_224_miil", "architecture is"),
        ("vit_medium_patch16_gap_240", "architecture is"),
    ],
)
def test_other_models_of_timm_are_refused(tmp_path, name, message):
    save_for_hf(timm.create_model(name, depth=1, embed_dim=48, num_heads=4), tmp_path, safe_serialization=True)
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == name
    with pytest.raises(ValueError, match=message):
        load(tmp_path)
