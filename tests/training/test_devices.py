"""Training on 8 devices, however they are arranged, is training on one."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest

from qtx.attention import VARIANTS
from qtx.models import MODELS, BertConfig, OptConfig, VitConfig
from qtx.training import MeshConfig, TrainingConfig
from qtx.training.program import make_program
from qtx.training.sharding import make_mesh, shard_global_batch

SHAPE = dict(num_layers=2, width=16, num_heads=4, mlp_width=32, init_std=0.2)
CONFIGS = {
    "bert": BertConfig(**SHAPE, vocab_size=40, max_length=8, attention=VARIANTS["gated_linear"]),
    "opt": OptConfig(**SHAPE, vocab_size=40, max_length=8, attention=VARIANTS["clipped_softmax"]),
    # Ten classes and five tokens: dimensions that the mesh does not divide.
    "vit": VitConfig(**SHAPE, image_size=8, channels=1, num_classes=10, patch_size=4),
}
TRAINING = TrainingConfig(steps=9, batch_size=16, warmup_steps=1, learning_rate=1e-2, epsilon=1e-3)
MESHES = {"data": (8, 1, 1), "fsdp": (1, 8, 1), "tensor": (1, 1, 8), "mixed": (2, 2, 2)}


def batch(family: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 40, (16, 8)).astype(np.int32)
    mask = np.arange(8) < rng.integers(4, 9, (16, 1))
    if family == "vit":
        images = rng.normal(size=(16, 8, 8, 1)).astype(np.float32)
        return {"images": images, "labels": tokens[:, 0] % 10, "weights": np.ones(16, np.float32)}
    text = {"tokens": tokens, "mask": mask}
    if family == "opt":
        return text | {"labels": np.roll(tokens, -1, 1), "weights": mask.astype(np.float32)}
    positions = np.sort(rng.integers(0, 4, (16, 3))).astype(np.int32)
    weights = rng.choice([0, 1], (16, 3)).astype(np.float32)
    return text | {"positions": positions, "labels": rng.integers(0, 40, (16, 3)).astype(np.int32), "weights": weights}


@functools.lru_cache
def losses_and_norms(family: str, mesh: tuple[int, int, int], dropout: float) -> np.ndarray:
    """Loss and gradient norm of three updates, `[3, 2]`."""
    config = dataclasses.replace(CONFIGS[family], dropout=dropout, attention_dropout=dropout)
    devices = make_mesh(MeshConfig(*mesh))
    program = make_program(MODELS[family][0](config), TRAINING, devices, batch(family))
    seed = np.uint32(0)
    # The initial parameters are compared on their own: one compilation less for each mesh.
    one = make_program(MODELS[family][0](config), TRAINING, make_mesh(MeshConfig(1)), batch(family))
    state = jax.device_put(one.init(seed), jax.tree.map(lambda x: x.sharding, program.abstract_state))
    measured, before = [], 0.0
    for _ in range(3):
        state, numbers = program.train_step(state, shard_global_batch(devices, batch(family)), seed)
        total = float(state.window.loss)
        measured.append((total - before, float(numbers["grad_norm"])))
        before = total
    return np.array(measured)


def check(family: str, mesh: str, dropout: float) -> None:
    expected = losses_and_norms(family, (1, 1, 1), dropout)
    np.testing.assert_allclose(losses_and_norms(family, MESHES[mesh], dropout), expected, rtol=1e-5)
    assert expected[2, 0] != expected[1, 0]


@pytest.mark.parametrize("mesh", MESHES)
def test_equals_one_device(mesh):
    check("opt", mesh, dropout=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_on_every_mesh_equals_one_device(family, mesh, dropout):
    check(family, mesh, dropout)


def test_initial_parameters_do_not_depend_on_the_mesh():
    module = MODELS["opt"][0](CONFIGS["opt"])
    states = []
    for mesh in ("mixed", None):
        devices = make_mesh(MeshConfig(*MESHES[mesh] if mesh else (1, 1, 1)))
        states.append(jax.device_get(make_program(module, TRAINING, devices, batch("opt")).init(np.uint32(5))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), *states)
