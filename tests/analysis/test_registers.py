"""A text model with registers before its tokens says the same of a text alone as padded; registers are no tokens."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.analysis import measure_outliers
from qtx.analysis.capture import FloatingPoint, values_at
from qtx.analysis.diagnosis import REGISTER, find_heads, find_map
from qtx.analysis.observation import observe_model
from qtx.attention import Rows
from qtx.data import OBJECTIVES
from qtx.families import FAMILIES, Family, MeasuredSites
from qtx.layers import embedding
from qtx.losses import Training
from qtx.masks import Mask, token_mask, tokens_at
from qtx.models import TransformerConfig
from qtx.models.block import layers
from qtx.parts import Part
from qtx.sites import Site
from qtx.training.distillation import Teacher

REGISTERS, REAL = 2, 4


@dataclasses.dataclass(frozen=True)
class RegisterConfig(TransformerConfig):
    pre_norm: ClassVar[bool] = False
    activation: ClassVar[str] = "gelu"
    causal: ClassVar[bool] = False
    head: ClassVar[str] = "none"
    vocab_size: ClassVar[int] = 11

    def real_positions(self, batch, length):
        real = super().real_positions(batch, batch["tokens"].shape[1])
        if real is None or length != real.shape[1] + REGISTERS:
            return super().real_positions(batch, length)
        return jnp.pad(real, ((0, 0), (REGISTERS, 0)))


CONFIG = RegisterConfig(num_layers=2, width=16, num_heads=2, mlp_width=24, init_std=0.3, dropout=0.0)


class WithRegisters(nn.Module):
    """An encoder without positions, whose every token sees two registers, far larger than any token."""

    config: RegisterConfig

    @nn.compact
    def __call__(self, batch, *, train=False, step=None):
        x = embedding(11, 16, "vocab", 1.0, jnp.float32, "tokens")(batch["tokens"])
        registers = self.param("registers", nn.initializers.normal(30.0), (REGISTERS, 16))
        x = jnp.concatenate([jnp.broadcast_to(registers, (len(x), REGISTERS, 16)), x], axis=1)
        x = Site(Part.EMBEDDED, name="sum")(x)
        seen = jnp.pad(batch["mask"], ((0, 0), (REGISTERS, 0)), constant_values=True)
        mask = Mask(x.shape[1], padding=seen)
        return layers(self.config, deterministic=True)(x, Rows(mask, step))[0]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    sites = MeasuredSites("layers/mlp/out", {name: name for name in ("layers/mlp/out", "layers/mlp_norm")})
    family = Family("Registers", WithRegisters, RegisterConfig, ("distill",), lambda config: sites)
    monkeypatch.setitem(FAMILIES, "registers", family)


def batch_of(length):
    """Two texts of four tokens, padded to a length by a token that no text has."""
    tokens = np.full((2, length), 10, np.int32)
    tokens[:, :REAL] = [[1, 2, 3, 4], [5, 1, 6, 2]]
    return {"tokens": tokens, "mask": np.arange(length) < np.full((2, 1), REAL), "weights": np.ones(2, np.float32)}


SHORT, LONG = batch_of(REAL), batch_of(REAL + 3)


@functools.cache
def make():
    module = WithRegisters(CONFIG)
    return module, *(nn.unbox(module.init(jax.random.key(seed), SHORT)["params"]) for seed in (0, 1))


def test_every_real_position_has_its_own_token():
    module = WithRegisters(CONFIG)
    for batch in (SHORT, LONG):
        length = batch["tokens"].shape[1] + REGISTERS
        found, real = tokens_at(batch, length, module), token_mask(batch, length, module)
        np.testing.assert_array_equal(found[real].reshape(2, REAL), SHORT["tokens"])
    padded_left = {"tokens": LONG["tokens"][:, ::-1], "mask": LONG["mask"][:, ::-1]}
    found, real = (of(padded_left, 9, module) for of in (tokens_at, token_mask))
    np.testing.assert_array_equal(found[real].reshape(2, REAL), SHORT["tokens"][:, ::-1])


@pytest.mark.slow
def test_an_evaluation_is_the_same_padded_and_counts_the_texts_alone():
    module, params, _ = make()
    short, long = (measure_outliers(module, params, [batch], token_text="<{}>".format) for batch in (SHORT, LONG))
    for name, value in short.metrics.items():
        assert long.metrics[name] == pytest.approx(value, rel=1e-4), name
    assert short.outlier_tokens == long.outlier_tokens
    np.testing.assert_allclose(long.column_mass[:, : REGISTERS + REAL], short.column_mass, rtol=1e-4, atol=1e-6)
    for kind, one in short.maps.items():
        assert one.tokens == long.maps[kind].tokens == [f"<{token}>" for token in SHORT["tokens"][0]]
        assert one.probs.shape == (REAL, REAL)
        np.testing.assert_allclose(long.maps[kind].probs, one.probs, rtol=1e-4, atol=1e-6)
    values = jax.jit(lambda m, b: values_at(m, b, ["layers/mlp/out"]))(FloatingPoint(module, params), SHORT)
    texts = np.abs(np.asarray(values["layers/mlp/out"])[:, :, REGISTERS:])
    np.testing.assert_allclose(short.inf_norms["layers/mlp/out"], texts.max((2, 3)).mean(1), rtol=1e-5)


@pytest.mark.slow
def test_a_head_that_parks_at_a_register_is_said_to():
    module, params, _ = make()
    short, long = (observe_model(FloatingPoint(module, params), [batch]) for batch in (SHORT, LONG))
    for one, other in zip(find_heads(short, str), find_heads(long, str), strict=True):
        assert (one.name, one.tokens, one.positions) == (other.name, other.tokens, other.positions)
        assert (REGISTER in one.tokens) == any(int(position) < REGISTERS for position in one.positions)
        assert find_map(long, other, str).tokens == list(map(str, SHORT["tokens"][long.example]))


@pytest.mark.slow
def test_distillation_is_the_same_padded_and_compares_the_texts_alone():
    module, ours, theirs = make()
    loss, found, measured = OBJECTIVES["distill"].for_model(CONFIG).loss, [], []
    for batch in (SHORT, LONG):
        taught = Teacher(module, lambda: theirs).targets(batch)
        sites = loss.sites(module, taught)
        captured = jax.jit(lambda m, b, sites=sites: values_at(m, b, sites))(FloatingPoint(module, ours), batch)
        output = module.apply({"params": ours}, batch)
        found.append(loss(output, taught, Training(captured, taught)))
        measured.append(loss.measured(output, Teacher(module, lambda: theirs).outputs(batch), 1).metrics())
    np.testing.assert_allclose(*map(np.asarray, found), rtol=1e-4)
    np.testing.assert_allclose(*(list(m.values()) for m in measured), rtol=1e-4)
    output, target = (np.asarray(module.apply({"params": p}, SHORT), np.float64)[:, REGISTERS:] for p in (ours, theirs))
    error = ((output - target) ** 2).sum((1, 2)) / (target**2).sum((1, 2))
    assert measured[0]["loss"] == pytest.approx(error.mean(), rel=1e-4)
    x, t = (hidden.mean(axis=1) for hidden in (output, target))
    cosines = (x * t).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(t, axis=1)
    assert measured[0]["fidelity"] == pytest.approx(cosines.mean(), rel=1e-4)
