"""Plans against hand computation, against what real data look like, and on the command line."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from qtx.cli.main import main
from qtx.data import load
from qtx.experiment import default, read
from qtx.foundation.hardware import CHIPS
from qtx.planning import StepPlan, plan_step, virtual_devices
from qtx.planning.hlo import Traffic, count_collectives, count_product_flops
from qtx.planning.stand_in import stand_in
from qtx.planning.table import remedies, verdict
from qtx.training import MeshConfig
from qtx.training.sharding import make_mesh
from tests.data.samples import write_labels, write_questions, write_words

NANO = Path(__file__).parents[1] / "nano_config.py"
WIDTH, MLP, VOCAB, LENGTH, LAYERS = 16, 32, 40, 32, 2
MODEL = dict(num_layers=LAYERS, width=WIDTH, num_heads=4, mlp_width=MLP, vocab_size=VOCAB, max_length=LENGTH)


def planned(mesh: tuple[int, int, int], **options) -> StepPlan:
    """The plan of a small OPT; options are `model_*` and `training_*`."""
    config = default("opt")
    config.model.update(MODEL)
    config.data.source, config.data.sequence_length, config.data.vocab_size = "bigram_backcopy", LENGTH, VOCAB
    config.training.batch_size = 64
    config.mesh.update(dict(zip(("data", "fsdp", "tensor"), mesh, strict=True)))
    for name, value in options.items():
        part, _, option = name.partition("_")
        config[part][option] = value
    return plan_step(read(config), jax.devices())


@pytest.fixture(scope="module")
def mixed():
    return planned((1, 4, 2))


@pytest.mark.slow
def test_state_by_hand(mixed):
    """A kernel is split by fsdp along its width and by tensor along the other axis; a vector is not split."""
    kernels = LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * MLP) + VOCAB * WIDTH
    positions = (LENGTH + 2) * WIDTH
    vectors = LAYERS * (5 * WIDTH + MLP + 4 * WIDTH) + 2 * WIDTH
    assert mixed.count == kernels + positions + vectors
    assert mixed.parameters == mixed.gradients == 4 * (kernels // 8 + positions // 4 + vectors)
    counters = mixed.optimizer - 2 * mixed.parameters
    assert 0 < counters < 100
    # tokens, labels, weights, and the mask of a byte each, split over data and fsdp.
    assert mixed.batch == 64 * LENGTH * (4 + 4 + 4 + 1) // 4


@pytest.mark.slow
def test_activations_fall_with_remat_and_work_grows(mixed):
    full = planned((1, 4, 2), model_remat="full")
    assert full.activations < 0.7 * mixed.activations
    # The whole forward pass of the blocks again, but for the last product of each: its result goes into a sum alone.
    tokens = 64 * LENGTH
    block = 2 * tokens * (4 * WIDTH**2 + 2 * WIDTH * MLP) + 2 * 2 * tokens * LENGTH * WIDTH
    assert full.step_flops == mixed.step_flops + LAYERS * (block - 2 * tokens * MLP * WIDTH)


@pytest.mark.slow
def test_activations_grow_with_the_batch_and_fall_with_accumulation(mixed):
    assert 1.8 < planned((1, 4, 2), training_batch_size=128).activations / mixed.activations < 2.2
    assert planned((1, 4, 2), training_accumulation_steps=4).activations < 0.5 * mixed.activations


@pytest.mark.slow
def test_work(mixed):
    """A product and its two gradients; of what is recomputed, dots keeps all but scores and context."""
    tokens = 64 * LENGTH
    dense, scores_and_context = 2 * tokens * (4 * WIDTH**2 + 2 * WIDTH * MLP), 2 * 2 * tokens * LENGTH * WIDTH
    head = 2 * tokens * WIDTH * VOCAB
    assert mixed.step_flops == mixed.model_flops == 3 * (LAYERS * (dense + scores_and_context) + head)
    assert mixed.collectives["all-gather"].runs >= LAYERS * 6, "every kernel of every layer"
    one = planned((1, 1, 1), model_remat="dots")
    assert one.model_flops == mixed.model_flops
    assert one.step_flops == one.device_flops == one.model_flops + LAYERS * scores_and_context
    assert mixed.device_flops * 8 == pytest.approx(mixed.step_flops, rel=0.01)
    assert one.collectives == {}


@pytest.mark.slow
def test_work_that_several_devices_do_counts_for_each():
    """Five heads are not split over two devices."""
    five = planned((1, 1, 2), model_num_heads=5, model_width=20)
    assert five.device_flops * 2 > 1.1 * five.step_flops


def test_counting_multiplies_loops():
    mesh = make_mesh(MeshConfig(1, 8, 1))
    split = NamedSharding(mesh, PartitionSpec("fsdp"))

    def five_products(x, kernel):
        def body(x, _):
            whole = jax.lax.with_sharding_constraint(jnp.sin(kernel), NamedSharding(mesh, PartitionSpec()))
            return jax.lax.with_sharding_constraint(jnp.tanh(x @ whole * x[0, 0]), split), None

        return jax.lax.scan(body, x, None, length=5)[0]

    x, kernel = (jax.ShapeDtypeStruct(shape, np.float32, sharding=split) for shape in ((64, 16), (16, 16)))
    gathered = count_collectives(jax.jit(five_products).lower(x, kernel).compile().as_text())["all-gather"]
    # XLA may gather the kernel once, before the loop.
    assert gathered in (Traffic(5, 5 * 16 * 16 * 4), Traffic(1, 16 * 16 * 4))


def test_a_collective_that_cannot_leave_its_loop_counts_every_time():
    """Rows of a kernel on eight devices: every product is a sum over them, of what the one before gave."""
    mesh = make_mesh(MeshConfig(1, 8, 1))
    rows, columns, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("fsdp",), (None, "fsdp"), ()))

    def five_sums(x, kernel):
        def body(x, _):
            x = jax.lax.with_sharding_constraint(x, columns)
            return jax.lax.with_sharding_constraint(jnp.tanh(x @ kernel), whole), None

        return jax.lax.scan(body, x, None, length=5)[0]

    x = jax.ShapeDtypeStruct((8, 32), np.float32, sharding=whole)
    kernel = jax.ShapeDtypeStruct((32, 32), np.float32, sharding=rows)
    found = count_collectives(jax.jit(five_sums).lower(x, kernel).compile().as_text())
    assert found == {"all-reduce": Traffic(5, 5 * 8 * 32 * 4)}


def test_products_in_a_loop_count_every_time():
    def three_products(x, kernel):
        def body(x, _):
            return (jnp.tanh(x @ kernel), None)

        return jax.lax.scan(body, x, None, length=3)[0]

    x, kernel = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((5, 4, 32), (32, 32)))
    text = jax.jit(three_products).lower(x, kernel).compile().as_text()
    assert count_product_flops(text) == 3 * 2 * 5 * 4 * 32 * 32


LABELLED: dict[str, tuple] = {
    "token_labels": ("token_classification", "token_classification", write_words, 2, {}),
    "questions": ("question_answering", "span", write_questions, None, {}),
    "text_labels": ("sequence_classification", "classification", write_labels, 2, {"text_pair_column": "label"}),
}
NAMES = {"token_labels": "a.conll", "questions": "a.json", "text_labels": "a.jsonl"}


@pytest.mark.parametrize(
    ("family", "source"),
    [
        *(("bert", "text_files"), ("opt", "text_files"), ("opt", "bigram_backcopy"), ("vit", "digits")),
        *(("bert", "token_labels"), ("bert", "questions"), ("bert", "text_labels")),
    ],
)
def test_stand_in_has_the_shapes_of_the_data(family, source, tmp_path):
    config = default(family)
    config.data.source = source
    if source in LABELLED:
        config.objective, config.model.head, write, config.model.num_classes, options = LABELLED[source]
        config.data.update({**options, "files": (str(write(tmp_path / NAMES[source])),), "vocab_size": 150})
    if source == "text_files":
        config.data.files = config.data.validation_files = (__file__,)
        config.data.vocab_size = 300
    if family == "vit":
        config.model.update(image_size=8, channels=1, num_classes=10, patch_size=4)
    experiment = read(config)
    data, (blank, assumed) = load(experiment.data, experiment.objective), stand_in(experiment)

    def shapes(data):
        return {name: (x.shape, x.dtype) for name, x in next(iter(data.evaluation(2))).items()}

    sizes = ("vocab_size", "sequence_length", "image_size", "channels", "num_classes")
    assert shapes(blank) == shapes(data) and not assumed
    assert [getattr(blank, size) for size in sizes] == [getattr(data, size) for size in sizes]


@pytest.mark.parametrize(
    ("family", "data", "assumed"),
    [
        ("bert", dict(source="text_files", files=("no.txt",), tokenizer="no/vocab.txt"), ["vocab_size 30522"]),
        ("opt", dict(source="text_files", files=("no.txt",), tokenizer="no/vocab.json"), ["vocab_size 50272"]),
        ("vit", dict(source="image_folder", path="no"), ["image_size 224", "channels 3", "num_classes 1000"]),
    ],
)
def test_what_nothing_tells_is_assumed(family, data, assumed):
    config = default(family)
    config.data.update(data)
    assert stand_in(read(config))[1] == assumed


@pytest.mark.slow
def test_verdict_and_remedies(mixed):
    big = dataclasses.replace(mixed, temporary=int(CHIPS["l4"].memory))
    assert verdict(mixed, "l4")[0].startswith("fits l4: 0.00 of 21.6 GiB")
    assert verdict(big, "l4")[0].startswith("does not fit l4: 24.00 of 21.6 GiB")
    assert remedies(big)[0] == "set config.model.remat=dots, or full"
    assert remedies(dataclasses.replace(mixed, parameters=int(CHIPS["l4"].memory)))[0].startswith("raise config.mesh")


def test_devices_that_are_not_there():
    assert len(virtual_devices(2)) == 2
    with pytest.raises(ValueError, match="16 virtual devices are needed, but JAX has started with 8"):
        virtual_devices(16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chip=h100sxm"], "unknown chip 'h100sxm': did you mean 'h100-sxm'?"),
        (["--devices=many"], "--devices=many: expected a positive integer"),
        (["--workdir=x"], "plan takes no --workdir"),
        (["--devices=2", "--config.mesh.data=4"], "needs 4 devices, but there are 2"),
    ],
)
def test_mistakes(arguments, message, capsys):
    jax.devices()
    assert main(["plan", f"--config={NANO}", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_command_plans_for_devices_that_the_machine_does_not_have():
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "qtx", "plan", f"--config={NANO}", "--devices=16", "--chip=tpu-v5e"]
    mesh = ["--config.mesh.data=-1", "--config.mesh.tensor=2"]
    done = subprocess.run([*command, *mesh], env=environment, capture_output=True, text=True, cwd=NANO.parents[1])
    assert done.returncode == 0, done.stderr
    assert "devices: 16, mesh data 8 x fsdp 1 x tensor 2" in done.stdout
    assert "| all-reduce |" in done.stdout
    assert "fits tpu-v5e: 0.00 of 14.4 GiB" in done.stdout
