"""Training on 8 devices, however they are arranged, is training on one; and they share the memory and the work."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import pytest

from qtx.analysis.capture import FloatingPoint
from qtx.attention import VARIANTS
from qtx.families import build
from qtx.losses import CrossEntropy
from qtx.models import BertConfig, OptConfig, VitConfig
from qtx.pipeline.measure import model_sums
from qtx.planning.hlo import count_collectives, count_product_flops
from qtx.training import MeshConfig, TrainingConfig
from qtx.training.program import Program, abstract_params, make_program
from qtx.training.sharding import batch_sharding, batch_shards, make_mesh, param_shardings, shard_global_batch
from qtx.training.step import TrainState
from tests.mechanisms import MECHANISMS

SHAPE = dict(num_layers=2, width=16, num_heads=8, mlp_width=32, init_std=0.2, dropout=0.0, attention_dropout=0.0)
CONFIGS = {
    "bert": BertConfig(**SHAPE, vocab_size=40, max_length=8),
    "bert gated": BertConfig(**SHAPE, vocab_size=40, max_length=8, attention=VARIANTS["gated_linear"]),
    "opt": OptConfig(**SHAPE, vocab_size=40, max_length=8, attention=VARIANTS["clipped_softmax"].trained_at(8)),
    # Ten classes and five tokens: dimensions that the mesh does not divide.
    "vit": VitConfig(**SHAPE, image_size=8, channels=1, num_classes=10, patch_size=4),
    "albert": BertConfig(**SHAPE, vocab_size=40, max_length=8, embedding_width=8, shared_layers=True),
}
# The trace of SGD with momentum is, after one update, the gradient.
TRAINING = TrainingConfig(
    steps=9, batch_size=16, optimizer="sgd", learning_rate=0.1, warmup_steps=1, weight_decay=0.0, clip_norm=None
)

MESHES = {"data": (8, 1, 1), "fsdp": (1, 8, 1), "tensor": (1, 1, 8), "mixed": (2, 2, 2)}
ONE_DEVICE = (1, 1, 1)


def batch(config: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 40, (16, 8)).astype(np.int32)
    mask = np.arange(8) < rng.integers(4, 9, (16, 1))
    if isinstance(config, VitConfig):
        images = rng.normal(size=(16, 8, 8, 1)).astype(np.float32)
        return {"images": images, "labels": tokens[:, 0] % 10, "weights": np.ones(16, np.float32)}
    text = {"tokens": tokens, "mask": mask}
    if isinstance(config, OptConfig):
        return text | {"labels": np.roll(tokens, -1, 1), "weights": mask.astype(np.float32)}
    positions = np.sort(rng.integers(0, 4, (16, 3))).astype(np.int32)
    weights = rng.choice([0, 1], (16, 3)).astype(np.float32)
    return text | {"positions": positions, "labels": rng.integers(0, 40, (16, 3)).astype(np.int32), "weights": weights}


def program(config: Any, mesh: tuple[int, int, int], parts: int = 1) -> Program:
    module = build(config)
    training = dataclasses.replace(TRAINING, accumulation_steps=parts)
    return make_program(module, training, make_mesh(MeshConfig(*mesh)), batch(config))


class Run(NamedTuple):
    """Three updates: their losses, the first one's gradients, and the last state, still on the devices."""

    losses: np.ndarray
    gradients: list[np.ndarray]
    state: TrainState


@functools.lru_cache
def run(name: str, mesh: tuple[int, int, int], parts: int, dropout: float) -> Run:
    config = dataclasses.replace(CONFIGS[name], dropout=dropout, attention_dropout=dropout)
    made, seed = program(config, mesh, parts), np.uint32(0)
    # The initial parameters are compared on their own: one compilation less for each mesh.
    state = program(config, ONE_DEVICE).init(seed)
    state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, made.abstract_state))
    totals, gradients = [0.0], []
    for _ in range(3):
        on_mesh = shard_global_batch(make_mesh(MeshConfig(*mesh)), batch(config))
        state, _ = made.train_step(state, on_mesh, seed)
        totals.append(float(state.window["loss"]))
        gradients = gradients or [np.asarray(leaf) for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    return Run(np.diff(totals), gradients, state)


def check(name: str, mesh: str, parts: int = 1, dropout: float = 0.0) -> None:
    """Losses and gradients are those of one device and one part, to 1e-5 of the largest gradient."""
    expected, found = run(name, ONE_DEVICE, 1, dropout), run(name, MESHES[mesh], parts, dropout)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
    assert len(found.gradients) == len(jax.tree.leaves(expected.state.params))
    largest = max(np.abs(gradient).max() for gradient in expected.gradients)
    for ours, theirs in zip(found.gradients, expected.gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * largest)
    assert largest > 1e-2 and expected.losses[2] != expected.losses[1]


@pytest.mark.representative("tensor")
@pytest.mark.parametrize("mesh", ["data", "fsdp", "tensor"])
def test_equals_one_device(mesh):
    check("opt", mesh)


@pytest.mark.long
@pytest.mark.parametrize("name", ["bert gated", "opt", "vit", "albert"])
def test_every_family_in_parts_on_a_mixed_mesh_equals_one_device(name):
    check(name, "mixed", parts=2)


# In parts and with dropout in turn, every family on some of the meshes, every mesh with some of the families.
KINDS_OF_STEPS = ((1, 0.0), (1, 0.1), (2, 0.0))
LATIN_SQUARE = [
    (name, mesh, *KINDS_OF_STEPS[column % 3])
    for row, name in enumerate(CONFIGS)
    for column, mesh in enumerate(MESHES)
    if (row + column) % 3 == 0
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mesh", "parts", "dropout"), LATIN_SQUARE)
def test_every_family_on_every_mesh_equals_one_device(name, mesh, parts, dropout):
    check(name, mesh, parts, dropout)


@pytest.mark.slow
def test_initial_parameters_do_not_depend_on_the_mesh():
    states = [jax.device_get(program(CONFIGS["opt"], m).init(np.uint32(5))) for m in (MESHES["mixed"], ONE_DEVICE)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), *states)


@pytest.mark.representative("tensor-*")
@pytest.mark.parametrize(
    ("mesh", "parts", "shape"),
    [("data", 1, (2, 16, 32)), ("fsdp", 1, (2, 2, 32)), ("tensor", 1, (2, 16, 4)), ("mixed", 2, (2, 8, 16))],
)
def test_devices_share_the_parameters(mesh, parts, shape):
    """After updates, each device holds its part of a kernel `[L, embed, mlp]` and of its moment, and no more."""
    state = run("opt", MESHES[mesh], parts, 0.0).state
    kernel = state.params["layers"]["mlp"]["in"]["kernel"]
    [moment] = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == kernel.shape and leaf is not kernel]
    for array in (kernel, moment):
        assert [shard.data.shape for shard in array.addressable_shards] == [shape] * 8


def compiled(config: Any, mesh: tuple[int, int, int]):
    made, sharding = program(config, mesh), batch_sharding(make_mesh(MeshConfig(*mesh)))
    abstract = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=sharding) for k, v in batch(config).items()}
    step: Any = made.train_step
    return step.lower(made.abstract_state, abstract, np.uint32(0)).compile()


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["fsdp", "tensor"])
def test_devices_share_the_work(mesh):
    """No device computes what another does."""
    # So wide that matrix products outweigh the elementwise work, which tensor devices share in part alone.
    wide = dataclasses.replace(CONFIGS["opt"], width=256, mlp_width=1024, vocab_size=400)
    alone, shared = (compiled(wide, sizes).cost_analysis()["flops"] for sizes in (ONE_DEVICE, MESHES[mesh]))
    assert shared * 8 == pytest.approx(alone, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mesh"), [("bert", "data"), ("opt", "fsdp"), ("opt", "mixed")])
def test_devices_share_a_vocabulary_in_parts(name, mesh, monkeypatch):
    """Each goes through its own predictions: none computes another's, or is sent them, or sums in every part."""
    monkeypatch.setattr("qtx.losses.vocabulary.ROWS_OF_A_CACHE", 2)
    # Tables of this size are no other test's, whose programs are kept.
    config = dataclasses.replace(CONFIGS[name], vocab_size=72)
    alone, shared = (compiled(config, sizes).as_text() for sizes in (ONE_DEVICE, MESHES[mesh]))
    assert "while" in alone
    assert count_product_flops(shared) * 8 == pytest.approx(count_product_flops(alone), rel=0.01)
    if mesh == "data":
        exchanged = count_collectives(shared)
        params = program(config, ONE_DEVICE).abstract_state.params
        assert exchanged.keys() == {"all-reduce"}
        # The gradients, of the word table those of its look-ups and of the head.
        values = sum(x.size for x in jax.tree.leaves(params)) + config.vocab_size * config.width
        assert exchanged["all-reduce"].bytes == pytest.approx(4 * values, rel=0.02)


@pytest.mark.slow
def test_devices_share_what_is_measured_after_training(monkeypatch):
    monkeypatch.setattr("qtx.losses.vocabulary.ROWS_OF_A_CACHE", 2)
    config = dataclasses.replace(CONFIGS["opt"], vocab_size=80)
    values, flops = batch(config), []
    params = jax.eval_shape(lambda: nn.unbox(build(config).init(jax.random.key(0), values)["params"]))
    for sizes in (ONE_DEVICE, MESHES["data"]):
        mesh = make_mesh(MeshConfig(*sizes))
        sharded = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=batch_sharding(mesh)) for k, v in values.items()}
        lowered = model_sums.lower(CrossEntropy(), batch_shards(mesh), FloatingPoint(build(config), params), sharded)
        flops.append(count_product_flops(lowered.compile().as_text()) * mesh.size)
    assert flops[1] == pytest.approx(flops[0], rel=0.01)


def test_tensor_devices_exchange_only_sums():
    """Per layer two sums of activations forward and four backward (query, key and value apart), and three around the
    layers; nothing is gathered: logits and word table stay split by vocabulary."""
    exchanged = count_collectives(compiled(CONFIGS["opt"], MESHES["tensor"]).as_text())
    activation = 16 * 8 * SHAPE["width"] * 4
    assert exchanged["all-reduce"].bytes < (2 * 6 + 3) * activation
    assert exchanged["all-gather"].bytes < 0.5 * activation


def dots(jaxpr: Any) -> list[Any]:
    """All matrix products of a jaxpr, those of inner ones included."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found.append(equation)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            found += dots(getattr(value, "jaxpr", value)) if hasattr(value, "eqns") else []
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_computes_and_float32_is_kept(name):
    config = dataclasses.replace(CONFIGS[name], dtype="bfloat16")
    made = program(config, ONE_DEVICE)
    jaxpr, (state, _) = jax.make_jaxpr(made.train_step, return_shape=True)(
        made.abstract_state, batch(config), np.uint32(0)
    )
    kept = {leaf.dtype.name for leaf in jax.tree.leaves((state.params, state.opt_state)) if leaf.ndim}
    assert kept == {"float32"}
    inputs = [[variable.aval.dtype.name for variable in equation.invars] for equation in dots(jaxpr.jaxpr)]
    # The scores are float32, and so are their gradients, which meet bfloat16 queries and keys.
    # A ViT's classifier is float32.
    classifier = 3 if name == "vit" else 0
    assert inputs.count(["float32", "float32"]) == classifier
    assert inputs.count(["bfloat16", "bfloat16"]) == len(inputs) - 2 - classifier


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "attention"), [(("opt", "bert")[i % 2], name) for i, name in enumerate(list(MECHANISMS)[::3])]
)
def test_one_example_per_device_is_the_same_example_everywhere(family, attention):
    """Each row of the logits is that of its own tokens."""
    module = build(dataclasses.replace(CONFIGS[family], attention=MECHANISMS[attention], init_std=0.3))
    tokens = {"tokens": np.random.default_rng(0).integers(0, 40, (4, 8)).astype(np.int32)}
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), tokens)["params"])
    mesh = make_mesh(MeshConfig(2, 2, 2))
    split = jax.device_put(params, param_shardings(mesh, abstract_params(module, tokens)))
    apply = jax.jit(lambda params, batch: module.apply({"params": params}, batch))
    found, expected = apply(split, shard_global_batch(mesh, tokens)), apply(params, tokens)
    np.testing.assert_allclose(found, expected, atol=1e-4)
