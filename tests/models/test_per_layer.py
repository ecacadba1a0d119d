"""Layers of a stack are told things of their own, and a model may add positions to those of its batch."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.foundation.errors import QtxError
from qtx.layers import dense, embedding, layer_norm
from qtx.masks import EVERYWHERE
from qtx.models import OptConfig
from qtx.models.block import stacked
from qtx.parts import Part
from qtx.quantization import Quantizer, Recipe, Rule, calibrate
from qtx.quantization.estimators import MinMax
from qtx.quantization.methods.inputs import absmax, of_inputs
from qtx.quantization.qat.noise import make_noisy_model
from qtx.sites import Site, capture
from qtx.training.penalized import penalty_sums
from qtx.training.penalties import make_penalties
from tests.strangers import documented

B, T, DEPTH = 2, 6, 4
OPTIONS = dict(num_layers=DEPTH, width=8, num_heads=2, mlp_width=12, vocab_size=11, max_length=8, init_std=0.3)
CONFIG = OptConfig(**OPTIONS)
BATCH = {"tokens": np.arange(B * T, dtype=np.int32).reshape(B, T) % 11, "mask": np.arange(T) < np.array([[T], [4]])}


@pytest.mark.slow
def test_a_block_sees_through_its_own_window():
    documented_model = documented("adding-a-variant.md")
    config = documented_model["LocalConfig"](**OPTIONS, window=3, global_every=2)
    module = documented_model["LocalDecoder"](config)
    params = jax.jit(module.init)(jax.random.key(0), BATCH)["params"]
    sites = ("layers/attention/probs", "layers/attention/probs/mask")
    _, found = jax.jit(lambda p: capture(module.apply, sites, {"params": p}, BATCH))(nn.unbox(params))
    probs, mask = (found[site] for site in sites)
    distance = np.abs(np.arange(T)[:, None] - np.arange(T))
    for layer, window in enumerate([T, 3, T, 3]):
        seen = (distance < window) & np.tri(T, dtype=bool) & BATCH["mask"][:, None, None, :]
        np.testing.assert_array_equal(np.asarray(probs[layer]) > 0, np.broadcast_to(seen, (B, 2, T, T)))
    assert mask.window.tolist() == [EVERYWHERE, 3, EVERYWHERE, 3]
    np.testing.assert_array_equal(mask.padding, np.broadcast_to(BATCH["mask"], (DEPTH, B, T)))


class PerhapsNormed(nn.Module):
    """x + factor * dense(norm(x)), without the norm in a layer that has none."""

    config: Any
    deterministic: bool

    @nn.compact
    def __call__(self, x, told, own):
        normed = jnp.where(own["normed"], layer_norm(1e-6, jnp.float32, "norm")(x), x)
        return x + told * own["factor"] * dense(8, ("embed", None), 0.3, jnp.float32, "out")(normed), None


class Told(nn.Module):
    config: OptConfig = CONFIG
    deterministic: bool = True
    factors: tuple[float, ...] = (1.0, 0.5, 0.25, 2.0)

    @nn.compact
    def __call__(self, x):
        own = {"normed": jnp.arange(DEPTH) > 0, "factor": jnp.array(self.factors)}
        return stacked(PerhapsNormed, self.config, self.deterministic, own)(x, 3.0)[0]


@pytest.mark.parametrize("deterministic", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_layer_may_lack_its_norm(deterministic):
    module, x = Told(deterministic=deterministic), np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    params = nn.unbox(module.init(jax.random.key(0), x)["params"])
    found = module.apply({"params": params}, x)
    kernels, x = np.asarray(params["layers"]["out"]["kernel"], np.float64), x.astype(np.float64)
    for layer, factor in enumerate(module.factors):
        centred = x - x.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) if layer else x
        x = x + 3 * factor * normed @ kernels[layer]
    np.testing.assert_allclose(found, x, rtol=1e-4)


def test_each_layer_must_be_told():
    with pytest.raises(QtxError, match=r"per_layer has an array \[3\]: expected 4 rows, one a layer"):
        jax.eval_shape(Told(factors=(1.0, 2.0, 3.0)).init, jax.random.key(0), jnp.ones((2, 8)))


@dataclasses.dataclass(frozen=True)
class RegisterConfig(OptConfig):
    """Two registers stand before the tokens."""

    def real_positions(self, batch, length):
        real = super().real_positions(batch, T)
        return super().real_positions(batch, length) if length != T + 2 else jnp.pad(real, ((0, 0), (2, 0)))


class WithRegisters(nn.Module):
    """Registers far larger than any token, which a dense layer reads as it reads tokens."""

    config: RegisterConfig

    @nn.compact
    def __call__(self, batch, *, train=False, step=None):
        x = embedding(11, 8, "vocab", 0.3, jnp.float32, "tokens")(batch["tokens"])
        registers = self.param("registers", nn.initializers.constant(50.0), (2, 8))
        x = jnp.concatenate([jnp.broadcast_to(registers, (len(x), 2, 8)), x], axis=1)
        x = Site(Part.RESIDUAL, name="sum")(x)
        return dense(8, ("embed", None), 0.3, jnp.float32, "out")(x)[:, 2:]


@functools.cache
def with_registers():
    """The model, its parameters, and the embeddings of the real tokens `[N, 8]`."""
    module = WithRegisters(RegisterConfig(**OPTIONS))
    params = nn.unbox(module.init(jax.random.key(0), BATCH)["params"])
    return module, params, np.asarray(params["tokens"]["embedding"])[BATCH["tokens"]][BATCH["mask"]]


RECIPE = Recipe((Rule("*", None),), (Rule("sum", Quantizer(8, False, MinMax())), Rule("*", None)))


def test_registers_are_no_tokens():
    """Ranges, and statistics of inputs, in NumPy over the real tokens alone."""
    module, params, real = with_registers()
    r = calibrate(module, params, RECIPE, [BATCH], 1).activation_ranges["sum"]
    np.testing.assert_allclose([r["minimum"], r["maximum"]], [real.min(), real.max()], rtol=1e-6)
    found = of_inputs(module, params, [BATCH], ("out",), absmax, jnp.maximum, {})["out"]
    np.testing.assert_allclose(found, np.abs(real).max(axis=0), rtol=1e-6)


@pytest.mark.slow
def test_registers_are_no_tokens_in_training():
    """Penalties, and the ranges of noise."""
    module, params, real = with_registers()
    penalties = make_penalties(("hinge,sites=sum,tau=0.1,weight=1",))
    _, captured = jax.jit(lambda p: capture(module.apply, ("sum",), {"params": p}, BATCH))(params)
    _, sums = penalty_sums(penalties, captured, BATCH, BATCH, jnp.int32(0), module)
    expected = (np.maximum(np.abs(real) - 0.1, 0) ** 2).sum(-1)
    (mean,) = sums.values()
    np.testing.assert_allclose([mean.total, mean.terms], [expected.sum(), len(real)], rtol=1e-5)

    noisy = make_noisy_model(module, RECIPE, BATCH)
    both = {name: np.repeat(x[:1], 2, axis=0) for name, x in BATCH.items()}  # the first is rounded, the second is not
    rounded, as_is = noisy.apply({"params": params}, both, train=True)
    error = np.abs(np.asarray(rounded) - as_is).max()
    of_text = np.asarray(params["tokens"]["embedding"])[BATCH["tokens"][0]]
    step = (max(of_text.max(), 0) - min(of_text.min(), 0)) / 255
    assert 0 < error <= 0.5 * step * np.abs(params["out"]["kernel"]).sum(axis=0).max() * 1.01
