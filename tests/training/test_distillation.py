"""Learning from a teacher: the sums against float64 arithmetic, and what the loss does to a model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.data import OBJECTIVES
from qtx.families import build
from qtx.losses import Training
from qtx.losses.divergences import HIDDEN, LOGITS, TEACHER
from qtx.models import BertConfig, OptConfig, VitConfig
from qtx.sites import capture
from qtx.training.distillation import Teacher
from qtx.training.evaluate import add_up

SHAPE = dict(num_layers=2, width=8, num_heads=2, mlp_width=16, init_std=0.3, dropout=0.0, attention_dropout=0.0)
SITES = ("layers/mlp_norm", "final_norm")
CONFIGS = {
    "encoder": BertConfig(**SHAPE, vocab_size=30, max_length=8, head="none"),
    "embedding": BertConfig(**SHAPE, vocab_size=30, max_length=8, head="none", modules="dense,outputs=5 + normalize"),
    "masked": BertConfig(**SHAPE, vocab_size=30, max_length=8),
    "classifier": BertConfig(**SHAPE, vocab_size=30, max_length=8, head="classification", num_classes=3),
    "scorer": BertConfig(**SHAPE, vocab_size=30, max_length=8, head="regression", num_classes=1),
    "labels": BertConfig(**SHAPE, vocab_size=30, max_length=8, head="multi_label", num_classes=3),
    "causal": OptConfig(**SHAPE, vocab_size=30, max_length=8),
    "causal, post-LN": OptConfig(**SHAPE, vocab_size=30, max_length=8, pre_norm=False),
    "image": VitConfig(**SHAPE, patch_size=2, image_size=4, channels=1, num_classes=3),
}
EMBEDDED = ("encoder", "embedding")


def batch_of(config, examples=3):
    rng = np.random.default_rng(0)
    weights = np.array([1.0, 1.0, 0.0][:examples], np.float32)
    if config.reads == "images":
        return {"images": rng.normal(size=(examples, 4, 4, 1)).astype(np.float32), "weights": weights}
    mask = np.arange(6) < np.array([6, 4, 6])[:examples, None]
    return {"tokens": rng.integers(0, 30, (examples, 6)).astype(np.int32), "mask": mask, "weights": weights}


def two_models(config):
    """The same module with two sets of parameters, and a batch."""
    module, batch = build(config), batch_of(config)
    params = [jax.tree.map(jnp.asarray, module.init(jax.random.key(seed), batch)["params"]) for seed in (0, 1)]
    return module, *map(nn.unbox, params), batch


def captured(module, params, batch):
    return capture(module.apply, SITES, {"params": params}, batch)


def distillation_sums(module, output, sites, batch):
    return OBJECTIVES["distill"].for_model(module.config).loss(output, batch, Training(sites, batch))


def measured(module, params, batch):
    loss = OBJECTIVES["distill"].for_model(module.config).loss
    return add_up(lambda b: loss.measured(module.apply({"params": params}, b), b, 1), [batch])


def squared_error(x, target, real, causal=False):
    """Relative squared error of one example, in float64, position by position; in a decoder without those that are
    one feature's for more than half."""
    above = below = 0.0
    for position in range(len(real)):
        squares = sorted(target[position] ** 2)
        spiked = causal and squares[-1] > sum(squares[:-1])
        if real[position] and not spiked:
            above += float(((x[position] - target[position]) ** 2).sum())
            below += float((target[position] ** 2).sum())
    return above / below


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "name"), [*(("all", name) for name in CONFIGS), ("last", "encoder")])
def test_loss_is_the_relative_error_of_the_layers_and_the_divergence_of_the_predictions(name, layers):
    module, theirs, ours, batch = two_models(CONFIGS[name])
    taught = Teacher(module, lambda: theirs, layers).targets(batch)
    output, sites = captured(module, ours, batch)
    found = distillation_sums(module, output, sites, taught)

    target_output, target_sites = captured(module, theirs, batch)
    f64 = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)  # noqa: E731
    output, sites, target_output, target_sites = map(f64, (output, sites, target_output, target_sites))
    final = [site for site in SITES if site in sites]
    stacked = [(sites[site][layer], target_sites[site][layer]) for site in final for layer in range(len(sites[site]))]
    stacked = stacked if layers == "all" else stacked[-1:]
    positions = stacked[0][0].shape[1]
    total = 0.0
    for example in range(2):  # the third has no weight
        real = batch["mask"][example] if "mask" in batch else np.ones(positions, bool)
        loss = np.mean([squared_error(x[example], t[example], real, "causal" in name) for x, t in stacked])
        if name == "scorer":
            scores = target_output[:2, 0]
            loss += (output[example, 0] - scores[example]) ** 2 / scores.var()
        elif name == "labels":
            q, p = (1 / (1 + np.exp(-x[example])) for x in (output, target_output))
            loss += (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum()
        elif name == "embedding":
            loss += ((output[example] - target_output[example]) ** 2).sum() / (target_output[example] ** 2).sum()
        elif name != "encoder":
            q, p = (np.atleast_2d(x[example]) for x in (output, target_output))
            p = np.exp(p - p.max(-1, keepdims=True)) / np.exp(p - p.max(-1, keepdims=True)).sum(-1, keepdims=True)
            q = np.exp(q - q.max(-1, keepdims=True)) / np.exp(q - q.max(-1, keepdims=True)).sum(-1, keepdims=True)
            divergences = (p * np.log(p / q)).sum(-1)
            loss += divergences[real[: len(divergences)] if len(divergences) > 1 else slice(None)].mean()
        total += loss
    assert found.weight == 2
    np.testing.assert_allclose(float(found.loss), total, rtol=2e-5)


def cosine(a, b):
    return float(np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b)))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_fidelity_is_the_cosine_of_embeddings_or_of_centred_predictions(name):
    module, theirs, ours, batch = two_models(CONFIGS[name])
    taught = Teacher(module, lambda: theirs).outputs(batch)
    assert {key for key in taught if key.startswith(TEACHER)} == {HIDDEN if name in EMBEDDED else LOGITS}
    output = np.asarray(module.apply({"params": ours}, batch), np.float64)
    target = np.asarray(module.apply({"params": theirs}, batch), np.float64)
    found = measured(module, ours, taught)
    assert found["predictions"] == 2
    errors, xs, ts = [], [], []
    for example in range(2):
        x, t = np.atleast_2d(output[example]), np.atleast_2d(target[example])
        real = np.flatnonzero(batch["mask"][example]) if len(x) > 1 else [0]
        x, t = x[real], t[real]
        errors.append(((x - t) ** 2).sum() / (t**2).sum())
        xs.append(x.mean(0)[None] if name in EMBEDDED else x)
        ts.append(t.mean(0)[None] if name in EMBEDDED else t)
    x, t = np.concatenate(xs), np.concatenate(ts)
    if name in EMBEDDED:
        expected = [np.mean(errors), np.mean(list(map(cosine, x, t)))]
        assert found["centred_fidelity"] == pytest.approx(cosine(x - x.mean(0), t - t.mean(0)), rel=1e-4)
    else:
        if name not in ("scorer", "labels"):
            x, t = x - x.mean(1, keepdims=True), t - t.mean(1, keepdims=True)
        error = ((x - t) ** 2).sum() / ((t - t.mean(0)) ** 2).sum()
        expected = [error, cosine(x - x.mean(0), t - t.mean(0))]
    np.testing.assert_allclose([found["loss"], found["fidelity"]], expected, rtol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGS)
def test_the_teacher_itself_has_no_loss_and_no_gradient(name):
    module, theirs, ours, batch = two_models(CONFIGS[name])
    teacher = Teacher(module, lambda: theirs)

    def loss(params):
        return distillation_sums(module, *captured(module, params, batch), teacher.targets(batch)).loss

    def steepest(params):
        return max(float(jnp.abs(x).max()) for x in jax.tree.leaves(jax.grad(loss)(params)))

    # The divergence of float32 probabilities from themselves is not exactly 0.
    assert abs(float(loss(theirs))) < 1e-6
    assert steepest(theirs) < 1e-4 * steepest(ours)
    outputs = teacher.outputs(batch)
    same = measured(module, theirs, outputs)
    assert same["loss"] < 1e-10 and same["fidelity"] == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_what_padding_holds_does_not_matter():
    module, theirs, ours, batch = two_models(CONFIGS["encoder"])
    other = {**batch, "tokens": np.where(batch["mask"], batch["tokens"], 7)}
    sums = [
        distillation_sums(module, *captured(module, ours, b), Teacher(module, lambda: theirs).targets(b))
        for b in (batch, other)
    ]
    np.testing.assert_allclose(*map(np.asarray, sums), rtol=1e-5)
