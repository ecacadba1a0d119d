"""A decoder whose modules have names of their own is quantized, analysed and distilled as OPT is, whose numbers it has:
an OPT's parameters, renamed, make the same function of it."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from qtx.analysis.analysis import feed_forward_outputs
from qtx.analysis.capture import FloatingPoint
from qtx.analysis.diagnosis import find_heads, find_outliers
from qtx.analysis.heads import AttentionSites, attentions
from qtx.analysis.observation import observe_model
from qtx.anatomy import read
from qtx.attention import MultiHeadAttention, Rows, attention_variant
from qtx.layers import dense, layer_norm
from qtx.losses.divergences import TEACHER, matched
from qtx.masks import Mask
from qtx.models import Opt, OptConfig
from qtx.models.block import stacked
from qtx.models.opt import OptEmbeddings, TiedHead
from qtx.parts import Part
from qtx.quantization import QuantizationConfig
from qtx.quantization.plan import flatten, quantizers_of
from qtx.sites import Site
from qtx.training.distillation import Teacher

CONFIG = OptConfig(
    num_layers=2, width=16, num_heads=2, mlp_width=24, vocab_size=11, max_length=8, init_std=0.3,
    attention=attention_variant("gated_linear"),
)  # fmt: skip
NAMES = {
    "layers": "trunk/layers", "attention_norm": "before_mix", "attention": "mix", "attention_residual": "plus_mix",
    "mlp_norm": "before_up", "mlp/in": "up", "mlp/hidden": "relu", "mlp/out": "down", "mlp_residual": "plus_down",
    "head": "answer", "final_norm": "last",
}  # fmt: skip


def renamed(path: str) -> str:
    """The path in `Odd` of a path in OPT."""
    parts = path.replace("mlp/", "mlp|").split("/")
    return "/".join(NAMES.get(part.replace("|", "/"), part) for part in parts)


class OddBlock(nn.Module):
    config: OptConfig
    deterministic: bool

    @nn.compact
    def __call__(self, x, rows):
        c = self.config

        def norm(name):
            return layer_norm(c.layer_norm_epsilon, jnp.float32, name)

        mix = MultiHeadAttention(c.attention_spec, self.deterministic, name="mix")
        x = Site(Part.RESIDUAL, name="plus_mix")(x + mix(norm("before_mix")(x), rows, x))
        up = dense(c.mlp_width, ("embed", "mlp"), 0.3, jnp.float32, "up", part=Part.PREACTIVATION)
        hidden = Site(Part.HIDDEN, name="relu")(nn.relu(up(norm("before_up")(x))))
        down = dense(c.width, ("mlp", "embed"), 0.3, jnp.float32, "down", part=Part.BRANCH)
        return Site(Part.RESIDUAL, name="plus_down")(x + down(hidden)), None


class Trunk(nn.Module):
    config: OptConfig

    @nn.compact
    def __call__(self, x, rows):
        return stacked(OddBlock, self.config, True)(x, rows)[0]


class Odd(nn.Module):
    config: OptConfig

    @nn.compact
    def __call__(self, batch, *, train=False, step=None):
        c, tokens = self.config, batch["tokens"]
        embeddings = OptEmbeddings(c, True, name="embeddings")
        x = embeddings(tokens, batch["mask"].astype(jnp.int32))
        x = Trunk(c, name="trunk")(x, Rows(Mask.of_batch(batch, tokens.shape[1], causal=True), step))
        x = layer_norm(c.layer_norm_epsilon, jnp.float32, "last")(x)
        return TiedHead(name="answer")(x, embeddings.words.embedding)


BATCH = {
    "tokens": np.random.default_rng(0).integers(0, 11, (3, 6)).astype(np.int32),
    "mask": np.arange(6) < np.array([[6], [4], [6]]),
    "weights": np.float32([1, 1, 0]),
}


@functools.cache
def make():
    """Both models with the same parameters: OPT first."""
    params = nn.unbox(Opt(CONFIG).init(jax.random.key(0), BATCH)["params"])
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(x + rng.normal(0, 0.1, x.shape), jnp.float32), params)
    odd = {renamed(path): x for path, x in flatten(params).items()}
    return (Opt(CONFIG), params), (Odd(CONFIG), traverse_util.unflatten_dict(odd, sep="/"))


@pytest.mark.parametrize("recipe", ["strict", "paper_opt"])
@pytest.mark.parametrize("granularity", ["tensor", "group"])
def test_recipes_know_its_tensors_by_their_parts(recipe, granularity):
    config = QuantizationConfig(recipe=recipe, activation_granularity=granularity)
    rules = config.make_recipe("w8a8", CONFIG)
    if recipe == "paper_opt":  # whose quirk of one site of attention is a rule on its path
        rules = rules.__class__(rules.weights, tuple(r for r in rules.activations if "gated" not in str(r.pattern)))
    expected, found = (quantizers_of(read(module, BATCH), rules) for module in (Opt(CONFIG), Odd(CONFIG)))
    for by_path, of_odd in zip(expected, found, strict=True):
        differing = {path for path, q in by_path.items() if of_odd.get(renamed(path)) != q}
        assert differing == ({"final_norm"} if granularity == "group" and "final_norm" in by_path else set())
        assert len(of_odd) == len(by_path)


def test_what_is_analysed_and_distilled_is_found_by_its_parts():
    for module, name in ((Opt(CONFIG), lambda path: path), (Odd(CONFIG), renamed)):
        context = name("layers/attention/gated_context")
        root, probs, value, gate = (name(f"layers/attention{end}") for end in ("", "/probs", "/value", "/gate"))
        assert attentions(module, BATCH) == (AttentionSites(root, probs, value, context, gate),)
        assert feed_forward_outputs(module, BATCH) == [name("layers/mlp/out")]
        assert matched(module, BATCH) == (name("layers/mlp_norm"), name("final_norm"))


@pytest.mark.slow
def test_its_diagnosis_is_that_of_opt():
    expected, found = (observe_model(FloatingPoint(module, params), [BATCH]) for module, params in make())
    assert {renamed(path) for path in expected.sites} == found.sites.keys()
    for path, seen in expected.sites.items():
        of_odd = found.sites[renamed(path)]
        for name, x in seen.items():
            np.testing.assert_allclose(of_odd[name], x, rtol=1e-4, atol=1e-5, err_msg=f"{path} {name}")
    one, other = (find_heads(observation, str) for observation in (expected, found))
    assert [role.name.replace("layers/attention", "trunk/layers/mix") for role in one] == [role.name for role in other]
    carried = [{o.name for o in find_outliers(observation, str) if o.carried} for observation in (expected, found)]
    assert "layers/mlp_residual[1]" in carried[0] and "trunk/layers/plus_down[1]" in carried[1]
    assert len(carried[0]) == len(carried[1]) == 5


@pytest.mark.slow
def test_its_teacher_gives_what_opt_gives():
    expected, found = (Teacher(module, functools.partial(dict, params)).targets(BATCH) for module, params in make())
    names = [name for name in expected if name.startswith(TEACHER)]
    assert len(names) == 3
    for name in names:
        np.testing.assert_allclose(found[renamed(name)], expected[name], rtol=1e-4, atol=1e-5)
