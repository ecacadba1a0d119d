"""Products of dense layers and heads, and look-ups: on a CPU and elsewhere their gradients are made in other ways."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.families import FAMILIES, build
from qtx.layers import FEW_ROWS, dense_product, embedding
from qtx.models import BertConfig, LlamaConfig, ModernBertConfig, OptConfig, RotaryBertConfig, VitConfig
from qtx.models.flops import product_flops

SHAPE = dict(num_layers=1, width=16, num_heads=2, mlp_width=32, init_std=0.2, dropout=0.0, attention_dropout=0.0)
CONFIGS = {
    "bert": BertConfig(**SHAPE, vocab_size=11, max_length=8),
    "modern_bert": ModernBertConfig(**SHAPE, vocab_size=11, max_length=8, local_distance=2),
    "opt": OptConfig(**SHAPE, vocab_size=11, max_length=8),
    "rotary_bert": RotaryBertConfig(**SHAPE, vocab_size=11, max_length=8),
    "llama": LlamaConfig(**SHAPE, vocab_size=11, max_length=8, num_kv_heads=1, qk_norm=True, tied=False),
    "vit": VitConfig(**SHAPE, image_size=8, channels=1, num_classes=3, patch_size=4),
}


@pytest.fixture
def elsewhere(monkeypatch):
    """A switch: what is traced after it is traced as on another backend."""
    return lambda: monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def loss_of(family):
    """(loss of the parameters, parameters); a new function each time, so that it is traced anew."""
    rng = np.random.default_rng(0)
    text = {"tokens": rng.integers(0, 11, (2, 8)).astype(np.int32)}
    batch = {"images": rng.normal(size=(2, 8, 8, 1)).astype(np.float32)} if family == "vit" else text
    module = build(CONFIGS[family])
    shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), batch)["params"])
    params = jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.3).astype(np.float32), shapes)
    return lambda params: jax.nn.logsumexp(module.apply({"params": params}, batch), -1).sum(), params


def inner(a, b):
    return sum(np.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_elsewhere_has_the_same_gradient_and_derivatives_forward(family, elsewhere):
    loss, params = loss_of(family)
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    flops = product_flops(jax.make_jaxpr(loss)(params))
    elsewhere()
    loss, _ = loss_of(family)
    assert product_flops(jax.make_jaxpr(loss)(params)) == flops > 0
    direction = jax.tree.map(lambda x: np.random.default_rng(x.size).normal(size=x.shape).astype(np.float32), params)

    @jax.jit
    def derivatives(params, direction):
        value, along = jax.jvp(loss, (params,), (direction,))
        return value, along, *jax.jvp(jax.grad(loss), (params,), (direction,))

    again, along, gradient_again, curvature = derivatives(params, direction)
    np.testing.assert_allclose(again, value, rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest), gradient_again, gradient)
    np.testing.assert_allclose(along, inner(gradient, direction), rtol=1e-3)
    # The Hessian is symmetric.
    other = jax.tree.map(np.flip, direction)
    np.testing.assert_allclose(
        inner(other, curvature), inner(direction, derivatives(params, other)[-1]), rtol=1e-3, atol=1e-3 * abs(along)
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("features", [4, 6])
def test_float32_logits_of_any_operands_have_gradients_in_the_dtype_of_the_operands(features, dtype, elsewhere):
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    x, kernel, weights = draw(2, 3, 5), draw(5, features), draw(2, 3, features).astype(jnp.float32)

    def gradients():
        return jax.grad(
            lambda x, kernel: (dense_product(x, kernel, preferred_element_type=jnp.float32) * weights).sum(), (0, 1)
        )

    here = gradients()(x, kernel)
    elsewhere()
    there = gradients()(x, kernel)
    exact = [np.asarray(a, np.float64) for a in (weights, x, kernel)]
    tolerance = 1e-6 if dtype == "float32" else 1e-2
    for of_x, of_kernel in (here, there):
        assert of_x.dtype == of_kernel.dtype == dtype
        by_hand = np.einsum("btf,df->btd", exact[0], exact[2]), np.einsum("btf,btd->df", exact[0], exact[1])
        for found, expected in zip((of_x, of_kernel), by_hand, strict=True):
            np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=tolerance, atol=4 * tolerance)
    products = [
        equation for equation in jax.make_jaxpr(gradients())(x, kernel).eqns if equation.primitive.name == "dot_general"
    ]
    assert {operand.aval.dtype.name for product in products for operand in product.invars} == {dtype}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [2, FEW_ROWS, FEW_ROWS + 1])
def test_a_look_up_elsewhere_is_the_same_and_its_gradient_adds_all_that_meets_in_a_row(rows, dtype, elsewhere):
    rng = np.random.default_rng(0)
    # Half of all tokens are of one row, as those of a masked text are.
    tokens = np.where(rng.random((64, 32)) < 0.5, 1, rng.integers(0, rows, (64, 32))).astype(np.int32)
    table = rng.normal(size=(rows, 3)).astype(np.float32)
    weights = rng.normal(size=(64, 32, 3)).astype(np.float32)

    def looked_up(table):
        return embedding(rows, 3, "vocab", 0.02, jnp.dtype(dtype)).apply({"params": {"embedding": table}}, tokens)

    here = looked_up(table)
    elsewhere()
    there = looked_up(table)
    assert there.dtype == dtype
    np.testing.assert_array_equal(there, here)

    def loss(table):
        return (looked_up(table).astype(jnp.float32) * weights).sum()

    expected = np.zeros((rows, 3))
    np.add.at(expected, tokens, weights.astype(np.float64))
    found = jax.grad(loss)(table)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype == "float32" else 2e-2, atol=2e-2)
    additions = {
        (equation.primitive.name, equation.outvars[0].aval.dtype.name)
        for equation in equations(jax.make_jaxpr(jax.grad(loss))(table).jaxpr)
        if equation.primitive.name in ("scatter-add", "dot_general")
    }
    assert additions == {("dot_general", dtype) if rows <= FEW_ROWS else ("scatter-add", "float32")}


def equations(program):
    """All in a program, and in those that it calls."""
    for equation in program.eqns:
        yield equation
        for value in equation.params.values():
            if hasattr(value, "jaxpr") or hasattr(value, "eqns"):
                yield from equations(getattr(value, "jaxpr", value))
