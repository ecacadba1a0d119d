"""A command makes each of its parts once: data, model, what is trained, and the traces that check them."""

from __future__ import annotations

import collections
import functools
import importlib
import sys
from pathlib import Path
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import qtx.training.loop
from qtx.anatomy import read
from qtx.attention.fused import taken_by
from qtx.cli.main import main
from qtx.families import build
from qtx.layers import dense
from qtx.models import BertConfig
from qtx.pipeline.identity import load_data
from qtx.quantization import Quantizer, Recipe, Rule
from qtx.quantization.estimators import MinMax
from qtx.quantization.qat.model import make_qat_model
from qtx.quantization.qat.noise import make_noisy_model
from qtx.training.penalized import check_sites
from qtx.training.sharding import make_mesh

NANO = f"--config={Path(__file__).parents[1] / 'nano_config.py'}"
MAKERS = (load_data, build, make_qat_model, make_noisy_model, taken_by, check_sites, make_mesh)


class Reached(Exception):
    """Everything is made, and the first step would follow."""


@pytest.fixture
def made(monkeypatch):
    """Returns a function that runs a command, and counts the calls of `MAKERS`, whoever makes them."""
    counts: collections.Counter[str] = collections.Counter()

    def counted(maker):
        @functools.wraps(maker)
        def count(*arguments, **options):
            counts[maker.__name__] += 1
            return maker(*arguments, **options)

        return count

    for name in ("qtx.cli.commands", "qtx.pipeline.inheritance"):  # all that the commands here import
        importlib.import_module(name)
    for maker in MAKERS:
        count = counted(maker)
        for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "qtx"]:
            for name in [name for name, value in vars(module).items() if value is maker]:
                monkeypatch.setattr(module, name, count)

    def made(*arguments):
        counts.clear()
        assert main(list(arguments)) == 0
        return dict(counts)

    made.counts = counts
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "also"),
    [
        ([], {}),
        (["--config.qat.noise=w8a8", "--config.training.penalties=('tweo,weight=.001',)"], {"make_noisy_model": 1}),
    ],
    ids=["plain", "noisy"],
)
def test_training_makes_each_part_once_before_its_first_step(made, options, also, tmp_path, monkeypatch):
    def reached(*_):
        raise Reached

    monkeypatch.setattr(qtx.training.loop, "Checkpoints", reached)
    # A rate of its own: the program of another test would be taken as it is.
    with pytest.raises(Reached):
        made("train", NANO, f"--workdir={tmp_path}/run", "--config.training.learning_rate=0.0123", *options)
    once = dict.fromkeys(("load_data", "build", "taken_by", "check_sites", "make_mesh"), 1)
    assert made.counts == once | also


class Counting(nn.Module):
    """A model that counts how often it is traced."""

    config: BertConfig
    traces: ClassVar[list[str]] = []

    @nn.compact
    def __call__(self, batch):
        self.traces.append("")
        return dense(4, ("embed", None), 0.1, jnp.float32, "out")(batch["x"])


@pytest.mark.parametrize("make", [make_qat_model, make_noisy_model])
def test_what_is_trained_is_described_by_the_traces_that_describe_the_model(make):
    module, batch = Counting(BertConfig()), {"x": np.ones((2, 3), np.float32)}
    read(module, batch)
    before, quantizer = len(module.traces), Quantizer(8, True, MinMax())
    assert before == 2  # its parameters, and what it computes with them
    make(module, Recipe((Rule("*", quantizer),), (Rule("*", quantizer),)), batch)
    assert len(module.traces) == before


@pytest.mark.long
def test_every_command_makes_each_part_once(made, tmp_path):
    """A start, and the parameters that are loaded for it, are another model's; a comparison has one beside its runs."""
    run, qat = f"--workdir={tmp_path}/run", f"--workdir={tmp_path}/qat"
    trained = {"load_data": 1, "build": 1, "taken_by": 1, "check_sites": 1, "make_mesh": 1}
    assert made("train", NANO, run, "--config.training.learning_rate=0.0124") == trained
    again = made("train", NANO, run, "--config.training.learning_rate=0.0124")
    assert again["build"] == 1 and "taken_by" not in again  # the run's record has the backend
    measured = made("quantize", run)
    assert measured["load_data"] == measured["build"] == 1 and "taken_by" not in measured
    quantized = [qat, f"--config.start={tmp_path}/run", "--config.qat.scheme=w8a8"]
    found = made("train", NANO, *quantized)
    assert found["make_qat_model"] == found["taken_by"] == found["load_data"] == 1 and found["build"] == 2
    assert made("quantize", qat)["make_qat_model"] == 1
    compared = ["--config.compare.variants=('softmax', 'none')", "--config.compare.seeds=(0,)"]
    found = made("compare", NANO, f"--workdir={tmp_path}/compared", *compared)
    assert (found["load_data"], found["build"], found["taken_by"]) == (1, 1 + 2, 2)
