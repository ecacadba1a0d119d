"""Quantization-aware training: what starts, what learns, what is reported, and that interruptions leave no trace."""

from __future__ import annotations

import dataclasses
import types

import flax.linen as nn
import jax
import numpy as np
import pytest

import qtx.data
from qtx.attention import VARIANTS
from qtx.experiment import default, read, record
from qtx.families import FAMILIES, build
from qtx.foundation.errors import QtxError
from qtx.pipeline.assemble import assemble
from qtx.pipeline.compare import runs
from qtx.pipeline.initial import initial_params
from qtx.pipeline.measure import measure
from qtx.pipeline.quantize import quantize
from qtx.pipeline.run import TrainedRun, restore_run
from qtx.pipeline.start_check import check_start
from qtx.pipeline.train import train
from qtx.quantization import QuantizationConfig, Quantizer, Recipe, Rule, calibrate
from qtx.quantization.estimators import MinMax
from qtx.quantization.qat.model import make_qat_model
from qtx.training import MeshConfig, RunFolder, TrainingConfig, read_metrics
from qtx.training.optimizer import decay_mask
from qtx.training.program import make_program
from qtx.training.run_folder import differences
from qtx.training.sharding import make_mesh

from .interruption import InterruptedData, Interruption

# Every test needs a trained run, or compiles the training step of a quantized model.
pytestmark = pytest.mark.slow


def make_config(start="", **qat):
    config = default("opt")
    shape = dict(num_layers=1, width=16, num_heads=2, mlp_width=32, max_length=16, init_std=0.2)
    config.model.update(shape | {"dropout": 0.0, "attention_dropout": 0.0})
    config.data.update({"source": "bigram_backcopy", "sequence_length": 16})
    intervals = dict(log_every=20, eval_every=20, checkpoint_every=20)
    config.training.update({"steps": 80, "warmup_steps": 10, "batch_size": 32, "learning_rate": 1e-2, **intervals})
    config.mesh.data = 1
    # One estimator for all bits: every scheme is compiled once.
    config.quantization.update({"weight_estimator": "minmax", "calibration_batches": 2, "schemes": ("w3a4",)})
    if start:
        config.start = start
        config.training.update({"steps": 40, "warmup_steps": 5, "learning_rate": 2e-3})
        config.qat.update({"scheme": "w3a4", **qat})
    return config


@pytest.fixture(scope="module")
def data():
    full = qtx.data.load(read(make_config()).data, "clm")
    return dataclasses.replace(full, held_out=[full.held_out[i] for i in range(64)])


@pytest.fixture(scope="module")
def start(data, tmp_path_factory):
    """The folder of a trained model."""
    workdir = tmp_path_factory.mktemp("start")
    train(assemble(read(make_config()), data), workdir)
    return workdir


@pytest.fixture(scope="module")
def unbroken(start, data, tmp_path_factory):
    """A run of quantization-aware training: its experiment and its result."""
    experiment = read(make_config(start=str(start)))
    return experiment, train(assemble(experiment, data), tmp_path_factory.mktemp("qat"))


def ranges_of(params):
    leaves = jax.tree_util.tree_leaves_with_path(params["ranges"])
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x) for path, x in leaves}


@pytest.mark.long
def test_what_quantization_takes_training_gives_back(start, unbroken):
    """Three-bit weights and four-bit activations cost this model 0.12 nats; forty updates win back most of them."""
    floating = read_metrics(start, "eval")[-1]["loss"]
    losses = {line["step"]: line["loss"] for line in read_metrics(unbroken[1].workdir, "eval")}
    assert losses.keys() == {0, 20, 40}
    assert losses[0] - floating > 0.08
    assert losses[40] - floating < 0.4 * (losses[0] - floating)


@pytest.fixture
def measured(monkeypatch):
    """`measure` without the analysis of outliers, which takes longer than the rest and has its own tests."""
    nothing = types.SimpleNamespace(metrics={}, quantized_histograms=True)
    monkeypatch.setattr("qtx.pipeline.measure.measure_outliers", lambda *_, **__: nothing)
    monkeypatch.setattr("qtx.pipeline.measure.save_analysis", lambda *_: None)
    return lambda run, schemes: measure(run, schemes, "softmax", 0.0)


def test_the_first_evaluation_is_that_of_post_training_quantization(start, data, unbroken, measured):
    assembled = assemble(read(make_config()), data)
    run = restore_run(assembled, start)
    first = read_metrics(unbroken[1].workdir, "eval")[0]
    result = measured(run, quantize(run))
    assert result["quantized"] == {"w3a4": pytest.approx(first["perplexity"], rel=1e-6)}


def test_a_run_is_evaluated_with_its_learned_ranges(data, unbroken, measured):
    """As `qtx.quantization.Quantized`, whose forward is the one that training evaluated."""
    experiment, result = unbroken
    assembled = assemble(experiment, data)
    run = restore_run(assembled, result.workdir)
    jax.tree.map(np.testing.assert_array_equal, run.params, result.params)
    found = measured(run, {})
    assert found["quantized"] == {"w3a4": pytest.approx(result.metrics["perplexity"], rel=1e-6)}
    assert found["fp"] != found["quantized"]["w3a4"]
    (scheme,) = quantize(run).values()
    learned, r = ranges_of(run.params), scheme.activation_ranges["layers/mlp/out"]
    name = "activations/layers/mlp/out"
    np.testing.assert_allclose(r["maximum"] - r["minimum"], 15 * learned[f"{name}/step"], rtol=1e-6)
    np.testing.assert_allclose(r["minimum"], learned[f"{name}/offset"], rtol=1e-6)


def test_interruptions_leave_no_trace(data, unbroken, tmp_path):
    """Stopped between checkpoints; what goes on needs the starting run no more."""
    experiment, result = unbroken
    with pytest.raises(Interruption):
        train(assemble(experiment, InterruptedData(data, 25)), tmp_path)
    again = train(assemble(experiment, NoCalibration(data, stop=10**9)), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, result.params)
    assert again.metrics == result.metrics
    lines = [
        [
            {name: value for name, value in line.items() if not name.endswith("_per_second")}
            for line in read_metrics(folder)
        ]
        for folder in (tmp_path, result.workdir)
    ]
    assert lines[0] == lines[1]


class NoCalibration(InterruptedData):
    calibration = None


def test_ranges_learn_and_do_not_decay(unbroken, data, start):
    experiment, result = unbroken
    assembled = assemble(experiment, data)
    make_initial = initial_params(assembled, result.workdir)
    before = ranges_of(make_initial())
    after = ranges_of(result.params)
    assert before.keys() == after.keys() and any(name.startswith("weights/") for name in before)
    # The smaller end of a symmetric range does not matter.
    activations = [name for name in before if name.startswith("activations/")]
    assert all(np.any(after[name] != before[name]) for name in activations)
    assert all(after[name].shape == (1,) for name in activations if "layers/" in name)
    mask = decay_mask(assembled.trained.described(next(iter(data.evaluation(1)))), True)(result.params)
    assert not any(jax.tree.leaves(mask["ranges"])) and mask["model"]["layers"]["mlp"]["out"]["kernel"]


class Dense(nn.Module):
    """A model of one site, quick to compile."""

    @nn.compact
    def __call__(self, batch, *, train=False):
        return nn.Dense(3, name="dense")(batch["x"])


@pytest.mark.representative("False")
@pytest.mark.parametrize("learn", [True, False])
def test_ranges_can_be_left_as_calibrated(learn):
    """Then no gradient reaches them, and no update; the weights have theirs. The rest of a batch has no say in it."""
    weight, activation = Quantizer(4, True, MinMax()), Quantizer(4, False, MinMax())
    recipe = Recipe((Rule("*/bias", None), Rule("*", weight)), (Rule("*", activation),))
    batch = {"x": jax.random.normal(jax.random.key(0), (8, 5))}
    model = make_qat_model(Dense(), recipe, batch, learn)
    params = model.module.init(jax.random.key(1), batch)["params"]
    given = model.start(params, calibrate(model.module, params, recipe, [batch], 1))
    optimizer = TrainingConfig(steps=1, warmup_steps=0, weight_decay=0.1).make_optimizer(model.described(batch))

    @jax.jit
    def gradient(params, batch):
        return jax.grad(lambda params: (model.apply({"params": params}, batch) ** 2).sum())(params)

    whole = gradient(given, batch)
    updates, _ = optimizer.update(whole, optimizer.init(given), given)
    assert np.all(updates["model"]["dense"]["kernel"] != 0)
    assert all(bool(np.any(x)) == learn for x in jax.tree.leaves(updates["ranges"]["activations"]))
    parts = [gradient(given, {"x": x}) for x in np.split(batch["x"], 2)]
    summed = jax.tree.map(np.add, *(part["ranges"]["activations"] for part in parts))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), summed, whole["ranges"]["activations"])


def test_given_parameters_lie_on_the_mesh_and_are_not_consumed(unbroken, data):
    experiment, result = unbroken
    assembled = assemble(experiment, data)
    batch = next(iter(data.evaluation(16)))
    program = make_program(assembled.trained, experiment.training, make_mesh(MeshConfig(1, 2, 2)), batch)
    wanted = jax.tree.map(lambda x: x.sharding, program.abstract_state.params)
    state = program.start(jax.device_put(result.params, wanted))
    assert not state.params["model"]["layers"]["mlp"]["out"]["kernel"].is_fully_replicated
    assert all(x.is_fully_replicated for x in jax.tree.leaves(state.params["ranges"]))
    jax.tree.map(lambda x: x.delete(), state.params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(result.params))


@pytest.mark.long
@pytest.mark.parametrize("mesh", [(2, 1, 1), (2, 2, 2)])
def test_several_devices_train_as_one(start, data, unbroken, tmp_path, mesh):
    config = make_config(start=str(start))
    config.mesh.update(dict(zip(("data", "fsdp", "tensor"), mesh, strict=True)))
    result = train(assemble(read(config), data), tmp_path)
    # Sums in another order push values that lie between two steps of a quantizer to the other one.
    assert result.metrics["loss"] == pytest.approx(unbroken[1].metrics["loss"], abs=0.02)


def test_noise_makes_a_model_that_loses_less_to_quantization(start, data, tmp_path, measured):
    """Forty updates with half of each batch quantized win back some of what three-bit weights and four-bit activations
    cost, in an ordinary run: its floating-point model is as good as it was, and its checkpoint the model's alone."""
    config = make_config(start=str(start), scheme="", noise="w3a4")
    result = train(assemble(read(config), data), tmp_path)
    as_was = restore_run(assemble(read(make_config()), data), start)
    noisy = restore_run(assemble(read(config), data), tmp_path)
    assert jax.tree.map(np.shape, noisy.params) == jax.tree.map(np.shape, as_was.params)
    cost = {}
    for name, run in {"as it was": as_was, "noisy": noisy}.items():
        found = measured(run, quantize(run))
        cost[name] = np.log(found["quantized"]["w3a4"]) - np.log(found["fp"])
    assert cost["noisy"] < 0.7 * cost["as it was"]
    assert result.metrics["loss"] < read_metrics(start, "eval")[-1]["loss"] + 0.02


@pytest.mark.slow
def test_every_granularity_learns(start, data, tmp_path, measured):
    options = {"weight_granularity": "channel", "activation_granularity": "token"}
    config = make_config(start=str(start))
    config.quantization.update(options)
    experiment = read(config)
    result = train(assemble(experiment, data), tmp_path)
    losses = [line["loss"] for line in read_metrics(tmp_path, "eval")]
    assert losses[-1] < losses[0]
    assembled = assemble(experiment, data)
    jax.tree.map(np.testing.assert_array_equal, restore_run(assembled, tmp_path).params, result.params)
    found = measured(TrainedRun(assembled, result.params, tmp_path, result.step), {})
    # Dynamic grids are computed by two programs, and a zero-point halfway between two integers may fall to either.
    assert found["quantized"]["w3a4"] == pytest.approx(result.metrics["perplexity"], rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "attention", "granularity", "options"),
    [
        ("bert", "gated_mlp", "tensor", {}),
        ("opt", "gated_linear", "tensor", {}),
        pytest.param("opt", "softmax", "tensor", {"remat": "full", "dtype": "bfloat16"}, marks=pytest.mark.long),
        ("vit", "softmax", "input_group,size=8", {}),
        ("modern_bert", "clipped_softmax", "channel", {"local_distance": 2}),
        ("llama", "gated_linear", "tensor", {"num_kv_heads": 1, "qk_norm": True, "branch_norms": True}),
        ("rotary_bert", "gated_headwise", "tensor", {"relative_buckets": 8}),
        pytest.param("bert", "softmax", "tensor", {"embedding_width": 8}, marks=pytest.mark.long),
        ("bert", "gated_linear", "tensor", {"embedding_width": 8, "shared_layers": True}),
        ("bert", "gated_linear", "channel", {"type_vocab_size": 0, "head": "regression", "num_classes": 3}),
    ],
)
def test_every_family_is_quantized_as_after_training(family, attention, granularity, options):
    shape = dict(num_layers=2, width=16, num_heads=2, mlp_width=32, init_std=0.2)
    text = {"vocab_size": 40, "max_length": 8}
    image = {"image_size": 8, "channels": 1, "num_classes": 10, "patch_size": 4}
    config = FAMILIES[family].config(
        **shape, **options, **(image if family == "vit" else text), attention=VARIANTS[attention].trained_at(8)
    )
    module, rng = build(config), np.random.default_rng(0)
    batch = {"images": rng.normal(size=(4, 8, 8, 1)).astype(np.float32)}
    batch = batch if family == "vit" else {"tokens": rng.integers(0, 40, (4, 8)).astype(np.int32)}
    params = nn.unbox(module.init(jax.random.key(0), batch)["params"])
    quantization = QuantizationConfig(recipe=FAMILIES[family].recipe, weight_granularity=granularity)
    # Another program adds up in another order: now and then a value is rounded to the next step.
    allowed = 0.05 if "dtype" in options else 0.02
    assert_quantized_as_after_training(module, params, batch, quantization.make_recipe("w8a8", config), allowed=allowed)


def assert_quantized_as_after_training(module, params, batch, recipe, learn=True, allowed=0.02):
    """The logits are those of `Quantized`; every range and weight has a finite gradient, and nearly all ranges one that
    is not 0, unless they are left as calibrated."""
    model = make_qat_model(module, recipe, batch, learn)
    given = model.start(params, calibrate(module, params, recipe, [batch], 1))
    expected = jax.jit(lambda scheme, batch: scheme.apply(batch))(model.quantized(given), batch)

    @jax.jit
    def gradient(params, batch):
        def loss(params):
            options = {"train": True, "step": 0, "rngs": {"dropout": jax.random.key(0)}}
            return (model.apply({"params": params}, batch, **options) ** 2).sum()

        return model.apply({"params": params}, batch), jax.grad(loss)(params)

    logits, gradients = gradient(given, batch)
    assert np.linalg.norm(logits - expected) < allowed * np.linalg.norm(expected)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))
    learned = [
        np.any(x) for x in jax.tree.leaves(gradients["ranges"].get("activations", {}))
    ]  # a range per token: none
    assert np.mean(learned or [1]) > 0.8 if learn else not any(learned)


def test_ranges_of_groups_cannot_be_learned(data, start):
    config = make_config(start=str(start))
    config.quantization.activation_granularity = "group"
    with pytest.raises(QtxError, match="learn_ranges=False"):
        assemble(read(config), data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.mlp_width": 64}, r"another model: model.mlp_width \(32 there, 64 here\)"),
        ({"start": "nowhere"}, "config.start=nowhere: nowhere is not a run's folder"),
        ({"qat.scheme": "4x4"}, "config.qat: scheme '4x4': expected w<weight bits>a<activation bits>"),
        ({"qat.scheme": "w1a8"}, "config.qat: bits is 1"),
    ],
)
def test_what_cannot_start(start, data, tmp_path, change, message):
    config = make_config(start=str(start))
    config.update_from_flattened_dict(change)
    workdir = tmp_path / "run"
    with pytest.raises(QtxError, match=message):
        train(assemble(read(config), data), workdir)
    assert not workdir.exists()


def test_what_is_no_start(start, data, unbroken, tmp_path):
    with pytest.raises(QtxError, match="is the run's own folder"):
        train(assemble(read(make_config(start=str(start))), data), start)
    with pytest.raises(QtxError, match="itself a run of quantization-aware training: start from"):
        train(assemble(read(make_config(start=str(unbroken[1].workdir))), data), tmp_path)


def test_a_start_may_differ_in_what_its_parameters_do_not_depend_on(start, tmp_path):
    config = make_config(start=str(start))
    config.model.dropout = 0.1
    config.seed = 3
    check_start(read(config), tmp_path, RunFolder(start).identity())


def test_a_section_that_is_idle_says_nothing(start):
    now = RunFolder(start).read_config()
    idle = now | {"qat": {"scheme": "", "noise": "", "learn_ranges": False}}
    assert not differences(now, idle) and not differences(idle, now)
    started = record(read(make_config(start="x")))
    assert "start (absent there, x here)" in differences(now, started)


def test_a_comparison_trains_from_the_beginning(start, tmp_path):
    with pytest.raises(QtxError, match="config.qat.scheme is set"):
        runs(read(make_config(start=str(start))), tmp_path)
