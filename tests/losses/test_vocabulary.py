"""Cross entropy from the factors of logits: its sums and gradients are those of the logits, in parts or in one; and a
training step and an evaluation hold none."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.families import FAMILIES, build
from qtx.losses import CrossEntropy, vocabulary
from qtx.losses.cross_entropy import cross_entropy_sums, training_sums
from qtx.losses.vocabulary import vocabulary_sums
from qtx.models.vocabulary import Factors, factored
from qtx.quantization import float32_only
from qtx.sites import on_sites
from qtx.training import MeshConfig, TrainingConfig
from qtx.training.program import make_program
from qtx.training.sharding import make_mesh
from tests.training.test_devices import dots

WIDTH, VOCAB = 8, 21
SMALL = dict(num_layers=1, width=16, num_heads=2, mlp_width=16, max_length=16, vocab_size=1024)


def example(rows, with_bias, seed=0):
    rng = np.random.default_rng(seed)
    bias = rng.normal(size=VOCAB) if with_bias else None
    factors = Factors(rng.normal(size=(*rows, WIDTH)), rng.normal(size=(VOCAB, WIDTH)), bias)
    weights = rng.integers(0, 3, rows) / 2
    labels = np.where(weights > 0, rng.integers(0, VOCAB, rows), -100)  # what padding has does not matter
    return factors, labels, weights


def in_parts(patch, rows):
    patch.setattr(vocabulary, "ROWS_OF_A_CACHE", rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows, at_once, smoothing, with_bias, shards",
    [
        ((3, 7), 25, 0.0, False, 1),
        ((3, 7), 4, 0.1, True, 1),
        ((1, 1), 1, 0.0, True, 1),
        ((2, 5), 1, 0.1, False, 1),
        ((6, 7), 4, 0.1, True, 3),
        ((4, 5), 9, 0.0, False, 4),
    ],
)
def test_sums_and_gradients_are_those_of_the_logits(rows, at_once, smoothing, with_bias, shards):
    """Against log-softmax in float64 and its automatic gradient, whatever the parts and shards."""
    factors, labels, weights = example(rows, with_bias, seed=0)

    def reference(factors):
        hidden, table, bias = factors.hidden, factors.table, factors.bias
        log_probs = jax.nn.log_softmax(hidden @ table.T + (0 if bias is None else bias))
        target = (1 - smoothing) * jax.nn.one_hot(labels, VOCAB, dtype=jnp.float64) + smoothing / VOCAB
        return -(weights * (target * log_probs).sum(axis=-1)).sum()

    with jax.enable_x64(True):
        as_double = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), factors)
        expected, gradients = jax.tree.map(np.asarray, jax.value_and_grad(reference)(as_double))
    with pytest.MonkeyPatch.context() as patch, jax.default_matmul_precision("highest"):
        in_parts(patch, at_once)
        single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), factors)
        batch = {"labels": jnp.asarray(labels, jnp.int32), "weights": jnp.asarray(weights, jnp.float32)}

        def loss(factors):
            sums = vocabulary_sums(factors, batch["labels"], batch["weights"], smoothing, shards=shards)
            return 3 * sums.loss, sums

        found, sums = jax.grad(loss, has_aux=True)(single)
        counted = training_sums(single.logits(), batch, smoothing)
    np.testing.assert_allclose(sums.loss, expected, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(sums[1:], counted[1:], rtol=1e-6)
    for got, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(got, 3 * wanted, atol=2e-6 * max(1, 3 * np.abs(wanted).max()))


@pytest.mark.slow
def test_ties_are_shared_as_evaluations_share_them(monkeypatch):
    in_parts(monkeypatch, 2)
    factors = Factors(jnp.ones((5, 1)), jnp.ones((VOCAB, 1)), None)
    labels, weights = jnp.arange(5), jnp.ones(5)
    sums = vocabulary_sums(factors, labels, weights, share_ties=True)
    np.testing.assert_allclose(sums.correct, 5 / VOCAB, rtol=1e-6)
    np.testing.assert_allclose(sums, cross_entropy_sums(factors.logits(), labels, weights), rtol=1e-6)


def model(family, **options):
    module = build(FAMILIES[family].config(**SMALL, **options))
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, SMALL["vocab_size"], (4, 16), dtype=np.int32)
    batch = {"tokens": tokens, "labels": tokens, "weights": np.ones(tokens.shape, np.float32)}
    return module, nn.unbox(module.init(jax.random.key(0), batch)["params"]), batch


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "opt"])
def test_a_model_gives_factors_unless_its_logits_are_looked_at(family):
    module, params, batch = model(family)
    logits = module.apply({"params": params}, batch)
    with factored():
        found = module.apply({"params": params}, batch)
        assert isinstance(found, Factors)
        np.testing.assert_allclose(found.logits(), logits, atol=1e-5)
        with on_sites(lambda module, path, y, mask: y * 2, ["head/logits"]):
            np.testing.assert_allclose(module.apply({"params": params}, batch), 2 * logits, atol=1e-5)
        seen, _ = module.apply({"params": params}, batch, capture_intermediates=True)
        assert seen.shape == logits.shape
    assert module.apply({"params": params}, batch).shape == logits.shape


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 4])
def test_the_products_precision_is_that_of_the_model(parts, monkeypatch):
    """Though it multiplies later: what is compared with what is quantized does so exactly."""
    module, params, batch = model("bert")
    in_parts(monkeypatch, batch["tokens"].size // parts)

    def loss(params):
        loss = CrossEntropy()
        return loss.measured(loss.output_of(float32_only.apply, module, {"params": params}, batch), batch, 1).loss

    found = [x.params["precision"] for x in dots(jax.make_jaxpr(loss)(params).jaxpr)]
    assert len(found) > 5
    assert all(x is not None and set(x) == {jax.lax.Precision.HIGHEST} for x in found)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "opt"])
def test_a_training_step_and_an_evaluation_hold_no_logits(family, monkeypatch):
    """In parts of an eighth; and what they say is what the logits say."""
    module, params, batch = model(family, dropout=0.0, attention_dropout=0.0)
    rows, vocab = batch["tokens"].size, SMALL["vocab_size"]
    sums = {}
    for parts in (1, 8):
        monkeypatch.setattr(vocabulary, "ROWS_OF_A_CACHE", rows // parts)
        jax.clear_caches()

        @jax.jit
        def evaluated(params, batch):
            loss = CrossEntropy()
            return loss.measured(loss.output_of(module.apply, {"params": params}, batch), batch, 1)

        program = make_program(module, TrainingConfig(steps=200 + parts), make_mesh(MeshConfig(1)), batch)
        state = program.start(params)
        step = program.train_step.lower(state, batch, np.uint32(0)).compile()
        whole = f"f32[{rows},{vocab}]"
        assert (whole in step.as_text()) == (parts == 1)
        assert (whole in evaluated.lower(params, batch).compile().as_text()) == (parts == 1)
        state, numbers = program.train_step(state, batch, np.uint32(0))
        sums[parts] = jax.device_get((state.window, numbers["grad_norm"], evaluated(params, batch)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), *sums.values())
    logits = module.apply({"params": params}, batch)
    expected = cross_entropy_sums(logits, jnp.asarray(batch["labels"]), jnp.asarray(batch["weights"]))
    np.testing.assert_allclose(sums[8][2].loss, expected.loss, rtol=1e-6)
