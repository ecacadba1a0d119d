"""Penalties in training: a run's are those of one big batch without padding, and it goes on with the same bits."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from qtx.experiment import read
from qtx.families import FAMILIES
from qtx.foundation.errors import QtxError
from qtx.models import Bert, BertConfig, Llama, LlamaConfig, Opt, OptConfig, Vit, VitConfig
from qtx.pipeline.assemble import assemble
from qtx.pipeline.train import train
from qtx.quantization import Quantizer, Recipe, Rule, calibrate
from qtx.quantization.estimators import MinMax
from qtx.quantization.qat.model import make_qat_model
from qtx.sites import capture
from qtx.training import Claim, MeshConfig, RunFolder, Task, TrainingConfig, fit, read_metrics
from qtx.training.penalized import penalty_sums
from qtx.training.penalties import PENALTIES, Penalty, make_penalties
from qtx.training.program import make_program
from qtx.training.sharding import make_mesh, shard_global_batch

from ..nano_config import get_config
from ..patient import DIMENSION, SEQUENCES
from .interruption import InterruptedData, Interruption
from .test_penalties import of_token

# The training step. Two layers, so that a mean over layers is one.
SHAPE = dict(num_layers=2, width=16, num_heads=4, mlp_width=32, init_std=0.2, dropout=0.0, attention_dropout=0.0)
MODULES = {
    "bert": Bert(BertConfig(**SHAPE, vocab_size=40, max_length=8)),
    "opt": Opt(OptConfig(**SHAPE, vocab_size=40, max_length=8)),
    "opt_full": Opt(OptConfig(**SHAPE, vocab_size=40, max_length=8, remat="full")),
    "opt_dots": Opt(OptConfig(**SHAPE, vocab_size=40, max_length=8, remat="dots")),
    "opt_bfloat16": Opt(OptConfig(**SHAPE, vocab_size=40, max_length=8, dtype="bfloat16")),
    "llama": Llama(LlamaConfig(**SHAPE, vocab_size=40, max_length=8, num_kv_heads=2)),
    "vit": Vit(VitConfig(**SHAPE, image_size=8, channels=1, num_classes=10, patch_size=4)),
}
PENALTY_TEXTS = (
    "hinge,sites=layers/mlp/out+embeddings/?u?,tau=.5,weight=3",  # sum, or out of decoders after Llama
    "tweo,sites=layers/mlp_*,tau=.5,weight=.1",
    "square,sites=layers/attention/context,weight=5,weight_start=1,anneal_steps=2",
    "square,sites=embeddings/*+layers/mlp/hidden",  # ViT's patches are one fewer than its tokens
)
PENALIZED_SITES = {
    "hinge": ("layers/mlp/out", "embeddings/?u?"),
    "tweo": ("layers/mlp_*",),
    "square": ("layers/attention/context",),
    "square_2": ("embeddings/*", "layers/mlp/hidden"),
}
# The trace of SGD with momentum is, after one update, the gradient. The first update's learning rate is 0.
TRAINING = TrainingConfig(
    steps=9,
    batch_size=16,
    optimizer="sgd",
    learning_rate=1e-9,
    warmup_steps=1,
    weight_decay=0.0,
    clip_norm=None,
    penalties=PENALTY_TEXTS,
)


SEEDS = (0, 1)


def make_batch(module, seed=0) -> dict[str, np.ndarray]:
    """16 samples of 3 to 8 tokens in no order, of which the last three pad the batch."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 40, (16, 8)).astype(np.int32)
    mask, weights = np.arange(8) < rng.integers(3, 9, (16, 1)), np.ones((16, 8), np.float32)
    weights[13:] = 0
    if isinstance(module, Vit):
        images = rng.normal(size=(16, 8, 8, 1)).astype(np.float32)
        return {"images": images, "labels": tokens[:, 0] % 10, "weights": weights[:, 0]}
    if isinstance(module, Llama | Opt):
        return {"tokens": tokens, "mask": mask, "labels": np.roll(tokens, -1, 1), "weights": weights * mask}
    positions = np.sort(rng.integers(0, 3, (16, 2))).astype(np.int32)
    return {"tokens": tokens, "mask": mask, "positions": positions, "labels": tokens[:, :2], "weights": weights[:, :2]}


ONE_DEVICE = ((1, 1, 1), 1)
ARRANGEMENTS = {
    "parts": ((1, 1, 1), 4),
    "devices": ((4, 2, 1), 1),
    "tensor": ((2, 1, 4), 1),
    "both": ((2, 2, 1), 4),
}
ARRANGED = [
    pair
    for number, name in enumerate(("bert", "opt", "opt_full", "opt_dots", "vit"))
    for pair in itertools.product([name], list(ARRANGEMENTS)[number % 2 :: 2])
]
"""Every model in two of the arrangements, in turn."""


class Run(NamedTuple):
    """Updates: the last state, on the host, and the gradients of the first by path."""

    state: Any
    gradients: dict[str, np.ndarray]


@functools.lru_cache
def run(name, arrangement=ARRANGEMENTS["both"]) -> Run:
    return run_on(name, [make_batch(MODULES[name], seed) for seed in SEEDS], arrangement)


def run_on(name, batches, arrangement=ARRANGEMENTS["both"]) -> Run:
    sizes, parts = arrangement
    mesh, training = make_mesh(MeshConfig(*sizes)), dataclasses.replace(TRAINING, accumulation_steps=parts)
    program = make_program(MODULES[name], training, mesh, batches[0])
    shardings = jax.tree.map(lambda x: x.sharding, program.abstract_state.params)
    state, gradients = program.start(jax.device_put(parameters(name), shardings)), {}
    for batch in batches:
        state, _ = program.train_step(state, shard_global_batch(mesh, batch), np.uint32(0))
        if not gradients:
            gradients = traverse_util.flatten_dict(jax.device_get(state.opt_state[0].trace), sep="/")
    return Run(jax.device_get(state), gradients)


@functools.lru_cache
def parameters(name):
    training = dataclasses.replace(TRAINING, penalties=())
    program = make_program(MODULES[name], training, make_mesh(MeshConfig(1)), make_batch(MODULES[name]))
    return jax.device_get(program.init(np.uint32(0)).params)


@functools.lru_cache
def forward(name):
    """(parameters, batch) -> logits, and path to `[L, B, ...]` of every site."""
    apply = MODULES[name].apply
    return jax.jit(lambda params, batch: capture(apply, ("*",), {"params": params}, batch))


def cross_entropies(name, params, batch) -> np.ndarray:
    """Of every prediction that counts, in float64."""
    logits = np.asarray(forward(name)(params, batch)[0], np.float64)
    of_label = np.take_along_axis(logits, batch["labels"][..., None], -1)[..., 0]
    return (np.log(np.exp(logits).sum(-1)) - of_label)[batch["weights"] > 0]


def naive(name, params, batches) -> dict[str, list[float]]:
    """What every real token, layer and site of some batches gives, by penalty, with nothing annealed: step is 0."""
    terms: dict[str, list[float]] = {}
    for batch in batches:
        sites = forward(name)(params, batch)[1]
        weights = batch["weights"].reshape(len(batch["weights"]), -1)
        for key, penalty in make_penalties(PENALTY_TEXTS).items():
            of_key = terms.setdefault(key, [])
            for site, values in sites.items():
                if not any(fnmatchcase(site, pattern) for pattern in PENALIZED_SITES[key]):
                    continue
                values = np.asarray(values, np.float64)
                for layer, b, t in np.ndindex(values.shape[:3]):
                    if weights[b].any() and ("mask" not in batch or batch["mask"][b, t]):
                        of_key.append(of_token(penalty, values[layer, b, t], 0))
    return terms


@pytest.mark.long
@pytest.mark.parametrize("name", MODULES)
def test_the_sums_are_those_of_every_real_token(name):
    """Of two updates, computed in parts and on devices that have more and fewer real tokens."""
    rtol, params = 2e-2 if name == "opt_bfloat16" else 1e-5, parameters(name)
    batches = [make_batch(MODULES[name], seed) for seed in SEEDS]
    window, expected = run(name).state.window, naive(name, params, batches)
    assert window["penalties"].keys() == expected.keys()
    for key, (total, terms) in window["penalties"].items():
        assert terms == len(expected[key]), key
        np.testing.assert_allclose(total, sum(expected[key]), rtol=rtol, err_msg=key)
    loss = sum(cross_entropies(name, params, batch).sum() for batch in batches)
    np.testing.assert_allclose(window["loss"], loss, rtol=rtol)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODULES if name != "opt_bfloat16"])
def test_the_gradient_is_that_of_the_weighted_mean(name):
    """Along itself, against differences of the naive loss."""
    params, batch, gradients = parameters(name), make_batch(MODULES[name]), run(name).gradients
    weights = {"hinge": 3.0, "tweo": 0.1, "square": 1.0, "square_2": 0.01}
    norm = np.sqrt(sum(np.sum(gradient**2) for gradient in gradients.values()))

    def slope(parts, h=4e-3):
        ends = []
        for sign in (1, -1):
            moved = {
                k: x + sign * h * gradients[k] / norm for k, x in traverse_util.flatten_dict(params, sep="/").items()
            }
            ends.append(parts(traverse_util.unflatten_dict(moved, sep="/")))
        return (ends[0] - ends[1]) / (2 * h)

    of_penalties = slope(lambda p: sum(weights[k] * np.mean(v) for k, v in naive(name, p, [batch]).items()))
    of_loss = slope(lambda p: cross_entropies(name, p, batch).mean())
    np.testing.assert_allclose(of_penalties + of_loss, norm, rtol=2e-3)
    assert of_penalties > 0.3 * norm


@pytest.mark.long
@pytest.mark.parametrize(("name", "arrangement"), ARRANGED)
def test_parts_and_devices_are_the_big_batch(name, arrangement):
    check_equal(run(name, ARRANGEMENTS[arrangement]), run(name, ONE_DEVICE))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["opt_full", "opt_dots"])
def test_rematerialization_changes_nothing(name):
    check_equal(run(name, ONE_DEVICE), run("opt", ONE_DEVICE))


@pytest.mark.slow
def test_a_step_against_a_hinge_lowers_real_outliers_and_little_else(patient):
    """The penalty is [CLS]'s alone; a step that takes a tenth of it away by its slope does so."""
    penalties, batch = make_penalties(("hinge,tau=10,weight=1",)), patient.held_out

    @jax.jit
    def penalty_and_gradient(params):
        def penalty(params):
            _, sites = capture(patient.module.apply, ("layers/mlp/out",), {"params": params}, batch)
            return penalty_sums(penalties, sites, batch, batch, jnp.int32(0), patient.module)[0], sites[
                "layers/mlp/out"
            ]

        return jax.value_and_grad(penalty, has_aux=True)(params)

    (before, x), gradient = penalty_and_gradient(patient.params)
    x = np.asarray(x, np.float64)
    far = np.abs(x) > 10
    np.testing.assert_allclose(before, ((np.abs(x[far]) - 10) ** 2).sum() / x[..., 0].size, rtol=1e-5)
    assert not far[:, :, 1:].any() and far[:, :, 0, DIMENSION].all() and far.sum() == 2 * SEQUENCES
    step = 0.1 * before / sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient))
    (after, y), _ = penalty_and_gradient(jax.tree.map(lambda p, g: p - step * g, patient.params, gradient))
    np.testing.assert_allclose(after, 0.9 * before, rtol=0.01)
    assert (np.abs(y).max(axis=(1, 2, 3)) < np.abs(x).max(axis=(1, 2, 3))).all()
    assert np.linalg.norm((y - x)[~far]) < 0.05 * np.linalg.norm(x[~far])


@pytest.mark.slow
def test_padding_does_not_matter():
    """Neither what stands where a sample has ended, nor the samples that fill the batch."""
    others = [make_batch(MODULES["bert"], seed) for seed in SEEDS]
    for other in others:
        other["tokens"][~other["mask"]] = 3
        other["tokens"][13:] = 7
    check_equal(run_on("bert", others), run("bert"))


def check_equal(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found.state.window, expected.state.window)
    largest = max(np.abs(gradient).max() for gradient in expected.gradients.values())
    for path, gradient in expected.gradients.items():
        np.testing.assert_allclose(found.gradients[path], gradient, rtol=0, atol=1e-5 * largest, err_msg=path)


@pytest.mark.slow
def test_a_batch_of_padding_is_no_penalty():
    batch = make_batch(MODULES["bert"])
    found = run_on("bert", [batch | {"weights": 0 * batch["weights"]}])
    assert all(mean == (0, 0) for mean in found.state.window["penalties"].values())
    assert not any(gradient.any() for gradient in found.gradients.values())


@pytest.mark.slow
def test_a_penalty_that_is_not_finite_is_a_bad_step():
    """Its value alone: of 1e10 only the fourth power is beyond float32, and with weight 0 no gradient tells of it."""
    module, penalties = MODULES["bert"], ("tweo,sites=embeddings/sum,weight=0",)
    params = jax.tree.map(jnp.copy, parameters("bert"))
    params["embeddings"]["words"]["embedding"] *= 1e11
    mesh, batch = make_mesh(MeshConfig(1)), make_batch(module)
    program = make_program(module, dataclasses.replace(TRAINING, penalties=penalties), mesh, batch)
    state, numbers = program.train_step(program.start(params), shard_global_batch(mesh, batch), np.uint32(0))
    assert np.isfinite(numbers["grad_norm"]) and state.bad.last == 1 and state.window["penalties"]["tweo"] == (0, 0)


def test_a_state_without_penalties_has_no_trace_of_them():
    training, batch = dataclasses.replace(TRAINING, penalties=()), make_batch(MODULES["bert"])
    state = make_program(MODULES["bert"], training, make_mesh(MeshConfig(1)), batch).abstract_state
    assert state.window.keys() == state.lost.keys() == {"loss", "weight", "correct"}


@pytest.mark.representative("bert-*outt*", "vit-*")
@pytest.mark.parametrize(
    ("name", "sites", "message"),
    [
        (
            "bert",
            "layers/mlp/outt",
            "unknown site of the penalty hinge 'layers/mlp/outt': did you mean 'layers/mlp/out'",
        ),
        ("bert", "layers/mlp/out+layers/gate*", "unknown site of the penalty hinge 'layers/gate\\*'"),
        ("bert", "layers/attention/scores", r"layers/attention/scores has no value per token .* \[1, 4, 8, 8\]"),
        ("bert", "head/norm", "head/norm has no value per token"),
        ("vit", "head/logits", "head/logits has no value per token"),
        ("opt", "layers/mlp", "unknown site of the penalty hinge 'layers/mlp'"),
    ],
)
def test_refused_sites(name, sites, message):
    module = MODULES[name]
    training = dataclasses.replace(TRAINING, penalties=(f"hinge,sites={sites}",))
    with pytest.raises(QtxError, match=message) as refusal:
        make_program(module, training, make_mesh(MeshConfig(1)), make_batch(module))
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_a_site_that_is_not_there_is_told_before_anything_is_written(tmp_path):
    config = get_config()
    config.training.penalties = ("hinge,sites=layers/mlp/ou",)
    with pytest.raises(QtxError, match="did you mean 'layers/mlp/out'"):
        train(assemble(read(config)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Whole runs.
RUN_PENALTIES = ("hinge,tau=.5,weight=1,tau_start=1,anneal_steps=8", "tweo,weight=.001")


@pytest.fixture(scope="module")
def fitted(module, data, training):
    def fitted(workdir, data=data, penalties=RUN_PENALTIES):
        options, config = dataclasses.replace(training, penalties=penalties), {"penalties": penalties}
        claim = Claim(RunFolder(workdir), config)
        return fit(Task(module, data, seed=7), options, claim, make_mesh(MeshConfig(1)))

    return fitted


@pytest.fixture(scope="module")
def unbroken(fitted, tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("penalized"))


def without_rates(workdir):
    lines = read_metrics(workdir)
    return [{name: value for name, value in line.items() if not name.endswith("_per_second")} for line in lines]


@pytest.mark.slow
def test_a_run_logs_its_penalties_beside_its_loss(unbroken):
    train = read_metrics(unbroken.workdir, "train")
    assert [line["step"] for line in train] == [5, 10, 12]
    assert all({"loss", "penalty/hinge", "penalty/tweo"} <= line.keys() for line in train)
    assert all(line["penalty/tweo"] > 0 for line in train)
    # The cross entropy alone, of a model that still guesses among 64 tokens.
    assert train[0]["loss"] == pytest.approx(np.log(64), rel=0.2)
    assert not any("penalt" in name for line in read_metrics(unbroken.workdir, "eval") for name in line)


@pytest.mark.slow
@pytest.mark.representative("4")
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_an_interruption_leaves_no_trace(fitted, unbroken, data, tmp_path, stop):
    with pytest.raises(Interruption):
        fitted(tmp_path, InterruptedData(data, stop))
    again = fitted(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, unbroken.params)
    assert without_rates(tmp_path) == without_rates(unbroken.workdir)


@pytest.mark.slow
def test_a_hinge_lowers_the_largest_value(module, data, unbroken, fitted, tmp_path):
    plain = fitted(tmp_path, penalties=())
    batch, largest = next(data.train(16, 1)), {}
    for name, result in {"hinge": unbroken, "none": plain}.items():
        values = capture(module.apply, ("layers/mlp/out",), {"params": result.params}, batch)[1]
        largest[name] = float(jnp.abs(values["layers/mlp/out"]).max())
    assert largest["hinge"] < 0.8 * largest["none"]
    assert unbroken.metrics["loss"] < 1.1 * plain.metrics["loss"]


@pytest.mark.slow
def test_a_quantized_model_is_penalized_on_its_rounded_values():
    """Two bits: of the sites' values four are left, and the penalty is that of these."""
    module, batch = MODULES["opt"], make_batch(MODULES["opt"])
    quantizer = Quantizer(2, False, MinMax())
    recipe = Recipe((Rule("*", None),), (Rule("layers/mlp/out", quantizer), Rule("*", None)))
    qat = make_qat_model(module, recipe, {name: value[:1] for name, value in batch.items()})
    calibrated = calibrate(module, parameters("opt"), recipe, iter([batch]), 1)
    training, mesh = dataclasses.replace(TRAINING, penalties=("square",)), make_mesh(MeshConfig(1))
    program = make_program(qat, training, mesh, batch)
    params = qat.start(parameters("opt"), calibrated)
    before = jax.device_get(capture(qat.apply, ("layers/mlp/out",), {"params": params}, batch)[1]["layers/mlp/out"])
    state, _ = program.train_step(program.start(params), shard_global_batch(mesh, batch), np.uint32(0))
    assert all(len(np.unique(layer)) <= 4 for layer in before)
    real = np.broadcast_to(batch["mask"] & (np.arange(16) < 13)[:, None], before.shape[:3])
    total, terms = state.window["penalties"]["square"]
    assert terms == real.sum()
    np.testing.assert_allclose(total, (before.astype(np.float64) ** 2).mean(-1)[real].sum(), rtol=1e-5)


def test_penalties_are_of_every_family():
    assert {type(module) for module in MODULES.values()} == {family.module for family in FAMILIES.values()}


@dataclasses.dataclass(frozen=True)
class Whole(Penalty):
    """A mean where a number per token is asked for."""

    def __call__(self, x, step):
        return jnp.abs(x).mean()


def test_a_penalty_that_gives_no_number_per_token_is_refused(monkeypatch):
    monkeypatch.setitem(PENALTIES, "whole", Whole)
    training = dataclasses.replace(TRAINING, penalties=("whole",))
    module = MODULES["bert"]
    with pytest.raises(QtxError, match=r"penalty whole gives \[\] of the values .*: expected one number per token"):
        make_program(module, training, make_mesh(MeshConfig(1)), make_batch(module))


def test_two_penalties_of_one_name_are_refused(monkeypatch):
    monkeypatch.setitem(PENALTIES, "hinge_2", Whole)
    with pytest.raises(QtxError, match="two penalties would be called hinge_2"):
        make_penalties(("hinge_2", "hinge", "hinge"))
