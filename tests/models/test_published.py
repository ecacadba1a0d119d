"""Every recipe's model has the parameters of the published model, each of its shape.

The tables in `published/` hold names and shapes as `transformers` has them; `published/make.py` wrote them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import traverse_util

from qtx.cli.flags import load_config_file
from qtx.experiment import read
from qtx.families import build, family_of
from qtx.models import count_parameters

TABLES = sorted((Path(__file__).parent / "published").glob("*.json"))
CONFIGS = Path(__file__).parents[2] / "configs"
# What data or tokenizer give, and where a recipe leaves the published sizes: the paper trains OPT at 512 positions, of
# the published 2048, and ViT with a LayerNorm on the patches.
OF_FAMILY = {
    "bert": {"vocab_size": 30522},
    "opt": {"vocab_size": 50272, "max_length": 2048},
    "vit": {"image_size": 224, "channels": 3, "num_classes": 1000, "patch_norm": False},
}


@pytest.mark.representative("bert_base", "opt_350m", "vit_s16")
@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_parameters_are_those_of_the_published_model(path):
    published = json.loads(path.read_text())
    experiment = read(load_config_file(str(CONFIGS / f"{path.stem}.py")))
    config = dataclasses.replace(experiment.model, **OF_FAMILY[experiment.family])
    params = nn.unbox(jax.eval_shape(build(config).init, jax.random.key(0), config.example())["params"])
    assert count_parameters(params) == published["parameters"]

    assert config.num_layers == published["layers"]
    ours = {}
    flat = traverse_util.flatten_dict(params, sep="/")
    for weight in family_of(config).checkpoints[0].weights(config):
        shape = flat.pop(weight.path).shape
        if weight.indices:
            assert shape[0] == published["layers"], weight.path
            shape = shape[1:]
        ours[weight.name] = list(weight.layout.exported(np.broadcast_to(np.float32(0), shape)).shape)
    assert ours == published["weights"]
    assert not flat


def test_every_recipe_has_a_table():
    assert {"bert_base", "opt_125m", "opt_350m", "opt_1b3", "vit_ti16", "vit_s16", "vit_b16"} <= {
        path.stem for path in TABLES
    }
    for path in TABLES:
        table = json.loads(path.read_text())
        sizes = {
            name: math.prod(shape) * (table["layers"] if "{layer}" in name else 1)
            for name, shape in table["weights"].items()
        }
        assert sum(sizes.values()) == table["parameters"]
