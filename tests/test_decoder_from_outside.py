"""A decoder block that no family of the package has, built and registered from outside: RMSNorm, rotary positions,
normalized queries and keys, grouped keys and values, heads of a size of their own, SwiGLU, no biases (Llama, Qwen3). It
trains, is analysed, calibrated, quantized by every method, and runs on integers."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.analysis import attention_health, measure_outliers
from qtx.analysis.capture import FloatingPoint as Analysed
from qtx.analysis.capture import values_at
from qtx.anatomy import read
from qtx.attention import AttentionSpec, MultiHeadAttention, Rows, attention_variant
from qtx.cli.main import main
from qtx.families import FAMILIES, Family, MeasuredSites
from qtx.foundation.errors import QtxError
from qtx.layers import dense, embedding
from qtx.layers import rms_norm as make_rms_norm
from qtx.masks import EVERYWHERE, Mask
from qtx.models import TransformerConfig
from qtx.models.block import stacked
from qtx.models.flops import step_flops
from qtx.models.opt import TiedHead
from qtx.parts import Part
from qtx.pipeline.generate import continued
from qtx.quantization import QuantizationConfig, calibrate
from qtx.quantization.granularity import Group
from qtx.quantization.integer import convert, products
from qtx.quantization.methods import METHODS
from qtx.quantization.plan import flatten, quantizers_of
from qtx.sites import Site
from tests.quantization.test_integer import assert_same_answers, dots, off_the_edges

# The model, as its author would write it.


@dataclasses.dataclass(frozen=True)
class DecoderConfig(TransformerConfig):
    """The head size is no quotient of width and heads; `tied`: the head is the word table; `windows`: how far each
    layer sees, 0: everywhere, with another rotary base (Gemma 3); (): all layers see everywhere."""

    pre_norm: ClassVar[bool] = True
    norm: ClassVar[str] = "RMSNorm"
    activation: ClassVar[str] = "silu"
    causal: ClassVar[bool] = True

    dropout: float = 0.0
    attention_dropout: float = 0.0
    layer_norm_epsilon: float = 1e-6
    num_kv_heads: int = 2
    head_dim: int = 6
    rotary_base: float = 100.0
    tied: bool = False
    windows: tuple[int, ...] = ()
    vocab_size: int | None = None

    @property
    def attention_spec(self) -> AttentionSpec:
        own = {"num_kv_heads": self.num_kv_heads, "head_dim": self.head_dim, "use_bias": False}
        return dataclasses.replace(super().attention_spec, **own)

    @property
    def per_layer(self):
        if not self.windows:
            return None
        return {
            "window": jnp.array([window or EVERYWHERE for window in self.windows]),
            "base": jnp.array([self.rotary_base * (1 if window else 10) for window in self.windows]),
        }


def rotary(x: jax.Array, base: jax.Array | float, first: jax.Array | int) -> jax.Array:
    """`[B, T, H, D]` from a position on, dimensions i and i + D / 2 turned by t base^(-2 i / D) at position t."""
    half = x.shape[-1] // 2
    angles = (first + jnp.arange(x.shape[1]))[:, None, None] * base ** (-jnp.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    turned = (first * jnp.cos(angles) - second * jnp.sin(angles), second * jnp.cos(angles) + first * jnp.sin(angles))
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


class SwiGlu(nn.Module):
    config: DecoderConfig

    @nn.compact
    def __call__(self, x):
        c, dtype = self.config, jnp.dtype(self.config.dtype)

        def project(name):
            axes = ("embed", "mlp")
            return dense(c.mlp_width, axes, c.init_std, dtype, name, use_bias=False, part=Part.PREACTIVATION)(x)

        hidden = Site(Part.HIDDEN, name="hidden")(nn.silu(project("gate")) * project("in"))
        return dense(c.width, ("mlp", "embed"), c.init_std, dtype, "out", use_bias=False, part=Part.BRANCH)(hidden)


def rms_norm(config: DecoderConfig, name: str, part: Part = Part.NORM) -> nn.RMSNorm:
    return make_rms_norm(config.layer_norm_epsilon, jnp.dtype(config.dtype), name, part)


class DecoderBlock(nn.Module):
    config: DecoderConfig
    deterministic: bool

    @nn.compact
    def __call__(self, x, rows, own=None):
        c, base = self.config, self.config.rotary_base
        if own is not None:
            rows, base = rows.within(own["window"]), own["base"]

        def rotate(query, key):
            query, key = rms_norm(c, "query_norm", Part.QUERY)(query), rms_norm(c, "key_norm", Part.KEY)(key)
            return rotary(query, base, rows.mask.first), rotary(key, base, rows.mask.first)

        attention = MultiHeadAttention(c.attention_spec, self.deterministic, name="attention")
        branch = attention(rms_norm(c, "attention_norm")(x), rows, x, rotate)
        x = Site(Part.RESIDUAL, name="attention_residual")(x + branch)
        x = Site(Part.RESIDUAL, name="mlp_residual")(x + SwiGlu(c, name="mlp")(rms_norm(c, "mlp_norm")(x)))
        return x, None


class Head(nn.Module):
    config: DecoderConfig

    @nn.compact
    def __call__(self, x):
        c = self.config
        axes = ("embed", "vocab")
        return dense(c.vocab_size, axes, c.init_std, jnp.float32, "logits", use_bias=False, part=Part.HEAD)(x)


class Decoder(nn.Module):
    config: DecoderConfig

    @nn.compact
    def __call__(self, batch, *, train=False, step=None):
        c, tokens = self.config, batch["tokens"]
        words = embedding(c.vocab_size, c.width, "vocab", c.init_std, jnp.dtype(c.dtype), "words")
        rows = Rows(Mask.of_batch(batch, tokens.shape[1], causal=True), step)
        x, _ = stacked(DecoderBlock, c, not train, c.per_layer)(words(tokens), rows)
        x = rms_norm(c, "final_norm")(x)
        return TiedHead(name="head")(x, words.embedding) if c.tied else Head(c, name="head")(x)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The family, under the name "decoder"."""
    measured = MeasuredSites("layers/mlp_residual", {name: name for name in MEASURED})
    family = Family("Decoder", Decoder, DecoderConfig, ("clm",), lambda config: measured)
    monkeypatch.setitem(FAMILIES, "decoder", family)


CONFIG = """
from qtx.experiment import default

def get_config(variant="softmax"):
    config = default("decoder", variant)
    config.model.update(dict(num_layers=1, width=18, num_heads=4, mlp_width=20, init_std=0.2))
    config.data.source = "bigram_backcopy"
    config.data.sequence_length = 8
    config.data.vocab_size = 16
    config.training.update(dict(steps=20, batch_size=128, learning_rate=1e-2, warmup_steps=1))
    config.training.update(dict(log_every=2, eval_every=10, checkpoint_every=20))
    config.mesh.data = 1
    config.quantization.schemes = ("w8a8",)
    config.quantization.weight_granularity = "channel"
    config.quantization.calibration_batches = 2
    return config
"""

MEASURED = ("layers/mlp_residual", "layers/mlp/out", "layers/mlp_norm")

# A small one, and answers found elsewhere.

SMALL = {"num_layers": 2, "width": 18, "num_heads": 4, "mlp_width": 20, "init_std": 0.3, "vocab_size": 23}
VARIANTS = ("softmax", "sink", "clipped_softmax,alpha=1", "gated_headwise", "gated_elementwise,gate_place=values")


@functools.cache
def make(variant="softmax", **options):
    """A model, its parameters, none of which has the value that it starts from, and a batch."""
    rng = np.random.default_rng(0)
    batch = {"tokens": rng.integers(0, 23, (4, 8)), "mask": np.arange(8) < np.array([[8], [5], [8], [2]])}
    module = Decoder(DecoderConfig(**{**SMALL, **options}, attention=attention_variant(variant).trained_at(8)))
    shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), batch)["params"])

    def random(path, leaf):
        return jnp.asarray(rng.normal(path[-1].key == "scale", 0.3, leaf.shape), leaf.dtype)

    return module, jax.tree_util.tree_map_with_path(random, shapes), batch


def normalized(variant, exponentials, p):
    """Probabilities of one row from the exponentials of its visible scores, and the parameters of its head."""
    softmax = exponentials / exponentials.sum()
    if variant == "sink":
        return exponentials / (exponentials.sum() + np.exp(p["sinks"]))
    return np.clip((1 + 1 / 8) * softmax - 1 / 8, 0, 1) if variant.startswith("clipped") else softmax


def reference(variant, config, params, tokens):
    """Logits `[T, vocab]` of one example in float64, row by row and head by head."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    length, (heads, kv, dim) = len(tokens), (config.num_heads, config.num_kv_heads, config.head_dim)

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale

    def rotated(x, base):  # as complex numbers
        turn = np.exp(1j * np.arange(length)[:, None] * base ** (-2 * np.arange(dim // 2) / dim))
        z = (x[:, : dim // 2] + 1j * x[:, dim // 2 :]) * turn
        return np.concatenate([z.real, z.imag], -1)

    x = p["words"]["embedding"][tokens]
    for layer in range(config.num_layers):
        w = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["layers"])
        a, y = w["attention"], norm(x, w["attention_norm"]["scale"])
        context, ones = np.zeros((length, heads * dim)), np.ones((length, heads * dim))
        gate = 1 / (1 + np.exp(-y @ a["gate_predictor"]["kernel"])) if "gate_predictor" in a else ones
        window = config.windows[layer] if config.windows else 0
        base = 1000.0 if config.windows and not window else 100.0
        for head in range(heads):
            own, shared = (slice(h * dim, h * dim + dim) for h in (head, head // (heads // kv)))
            query = rotated(norm(y @ a["query"]["kernel"][:, own], a["query_norm"]["scale"]), base)
            key = rotated(norm(y @ a["key"]["kernel"][:, shared], a["key_norm"]["scale"]), base)
            value = y @ a["value"]["kernel"][:, shared]
            value = value * gate[:, shared] if variant.endswith("values") else value
            of_head = {name: x[head] for name, x in a.get("normalizer", {}).items()}
            for t in range(length):
                seen = slice(max(t + 1 - window, 0) if window else 0, t + 1)
                scores = key[seen] @ query[t] / np.sqrt(dim)
                context[t, own] = normalized(variant, np.exp(scores), of_head) @ value[seen]
        context = context * np.repeat(gate, dim, axis=1) if variant == "gated_headwise" else context
        x = x + context @ a["out"]["kernel"]
        y = norm(x, w["mlp_norm"]["scale"])
        gate = y @ w["mlp"]["gate"]["kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w["mlp"]["in"]["kernel"])) @ w["mlp"]["out"]["kernel"]
    table = p["words"]["embedding"].T if config.tied else p["head"]["logits"]["kernel"]
    return norm(x, p["final_norm"]["scale"]) @ table


WINDOWS = {"num_layers": 4, "windows": (0, 4, 0, 2)}


@pytest.mark.representative("softmax-windows", "gated_headwise-alone")
@pytest.mark.parametrize(
    "variant, options",
    [
        pytest.param("softmax", {"tied": True}, id="softmax-tied"),
        *(pytest.param(variant, {}, id=f"{variant}-alone") for variant in VARIANTS[1:]),
        pytest.param("softmax", WINDOWS, id="softmax-windows"),
    ],
)
def test_it_computes_what_a_plain_program_does(variant, options):
    module, params, batch = make(variant, **options)
    found = np.asarray(jax.jit(module.apply)({"params": params}, batch))
    for example, tokens, mask in zip(found, batch["tokens"], batch["mask"], strict=True):
        real = int(mask.sum())  # a token sees none of the padding behind it, but clipping counts all T keys
        expected = reference(variant, module.config, params, tokens[:real])
        np.testing.assert_allclose(example[:real], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("variant, options", [("gated_elementwise,gate_place=values", {}), ("softmax", WINDOWS)])
def test_it_goes_on_with_a_text_as_a_plain_program_does(variant, options):
    """From cached keys, which are normalized, turned and shared, and values, which are gated."""
    module, params, batch = make(variant, **options)
    text = batch["tokens"][0, :3].tolist()
    found = continued(Analysed(module, params), text, 6)
    for token in found:
        assert token == reference(variant, module.config, params, np.array(text))[-1].argmax()
        text.append(token)


@pytest.fixture
def run(tmp_path, capsys):
    """Runs a command on the run's folder, or on one below it, and returns what it prints."""
    (tmp_path / "decoder.py").write_text(CONFIG)

    def run(command, *options, folder="", config=None):
        named = [] if config is None else [f"--config={tmp_path / 'decoder.py'}:{config}"]
        code = main([command, *named, f"--workdir={tmp_path / 'run' / folder}", *options])
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out

    return run


@pytest.mark.long
def test_from_the_command_line_to_integers(run, tmp_path):
    assert "Decoder (pre-RMSNorm, causal)" in run("train", config="sink")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert losses[-1] < losses[0] - 1
    run("quantize")
    found = json.loads((tmp_path / "run" / "results.json").read_text())["measurements"]
    loss = {line["scheme"]: line["values"]["loss"] for line in found}
    assert 0 < abs(loss["w8a8"] - loss["fp"]) < 0.01
    run("export", "--format=int8")
    integers = re.search(r"perplexity ([\d.]+)", run("evaluate", folder="export/int8"))
    assert float(integers[1]) == pytest.approx(math.exp(loss["w8a8"]), abs=0.006)


@pytest.mark.long
def test_the_other_commands_know_it(run, tmp_path, capsys):
    run("train", config="gated_headwise")
    run("evaluate")
    for method in sorted(METHODS):
        run("quantize", f"--method={method}", "--scheme=w4a8")
    run("sensitivity", "--scheme=w4a4")
    rows = json.loads((tmp_path / "run" / "sensitivity.json").read_text())["rows"]
    assert {"layers/attention/rotated_key", "layers/mlp/gate", "layers/attention/key_norm/scale"} <= {
        row["path"] for row in rows
    }
    assert main(["export", "--format=huggingface", f"--workdir={tmp_path / 'run'}"]) == 2
    assert "Hugging Face" in capsys.readouterr().err
    assert main(["plan", f"--config={tmp_path / 'decoder.py'}"]) == 0, capsys.readouterr().err
    assert main(["train", f"--config={tmp_path / 'decoder.py'}:smoke", f"--workdir={tmp_path / 'smoke'}"]) == 0


@pytest.mark.long
def test_a_comparison_of_it_is_reported(run, tmp_path):
    run("compare", "--config.compare.variants=('softmax', 'none')", "--config.compare.seeds=(0,)", config="softmax")
    assert "Decoder" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_statistics_of_heads_read_the_values_that_each_head_reads():
    module, params, batch = make("softmax")
    analysis, sites = measure_outliers(module, params, [batch]), ("layers/attention/probs", "layers/attention/value")
    probs, value = jax.jit(lambda m, b: values_at(m, b, sites))(Analysed(module, params), batch).values()
    drain = np.zeros((4, 2, 4))  # example, layer, head
    for example, layer, head in np.ndindex(drain.shape):
        real = int(batch["mask"][example].sum())
        mass = np.asarray(probs)[layer, example, head, :real, :real].sum(0)
        of_head = np.asarray(value)[layer, example, :real, 6 * (head // 2) : 6 * (head // 2) + 6]
        norms = np.linalg.norm(of_head, axis=-1)
        drain[example, layer, head] = norms[mass.argmax()] / np.delete(norms, mass.argmax()).mean()
    np.testing.assert_allclose(analysis.heads["value_drain"], drain.mean(0), rtol=1e-4)
    health = attention_health(module, params, batch)
    assert health["sink_mass"] == pytest.approx(analysis.metrics["sink_mass"], rel=1e-5)


@pytest.mark.slow
def test_statistics_count_the_keys_in_each_layers_own_window():
    """The captured probabilities are zero out of sight, and some of those in sight are clipped to zero."""
    module, params, batch = make("clipped_softmax,alpha=1", **WINDOWS)
    probs = jax.jit(lambda m, b: values_at(m, b, ["layers/attention/probs"]))(Analysed(module, params), batch)
    probs = np.asarray(probs["layers/attention/probs"])
    zeros, keys, dead, queries = (np.zeros((4, 4)) for _ in range(4))
    for layer, example, head, t in np.ndindex(probs.shape[:-1]):
        row, window = probs[layer, example, head, t], WINDOWS["windows"][layer] or 8
        in_sight = [j for j in range(8) if j <= t and t - j < window and batch["mask"][example, j]]
        assert not np.delete(row, in_sight).any()
        if batch["mask"][example, t]:
            zeros[layer, head] += (row[in_sight] == 0).sum()
            keys[layer, head] += len(in_sight)
            dead[layer, head] += not row[in_sight].any()
            queries[layer, head] += 1
    assert zeros.any(axis=1).all() and len(set(keys[:, 0])) == 3
    health = attention_health(module, params, batch)
    assert health["zero_share"] == pytest.approx(zeros.sum() / keys.sum(), rel=1e-5)
    assert health["dead_row_share"] == pytest.approx(dead.sum() / queries.sum(), rel=1e-5)


@pytest.mark.slow
def test_windows_are_known_to_every_way_of_looking():
    module, params, batch = make("clipped_softmax,alpha=1", **WINDOWS)
    analysis = measure_outliers(module, params, [batch, batch])
    sites = ("layers/attention/probs", "layers/attention/probs/mask")
    found = jax.jit(lambda m, b: values_at(m, b, sites))(Analysed(module, params), batch)
    mask, probs = found["layers/attention/probs/mask"], np.asarray(found["layers/attention/probs"])
    windows = [window or EVERYWHERE for window in WINDOWS["windows"]]
    np.testing.assert_array_equal(mask.window, windows)
    assert mask.queries == 8 and mask.padding.shape == (4, *batch["mask"].shape)
    for layer, window in enumerate(windows):
        seen = np.tri(8, dtype=bool) & ~np.tri(8, k=-min(window, 8), dtype=bool)
        seen = seen & batch["mask"][:, None, :] & batch["mask"][:, :, None]
        zeros = ((probs[layer] == 0) & seen[:, None]).sum((0, 2, 3)) / seen.sum()
        np.testing.assert_allclose(analysis.heads["zero_share"][layer], zeros, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_step_in_windows_is_the_same_by_blocks(remat):
    """Values and gradients, of layers in a scan and one by one (in training)."""
    results = {}
    for backend in ("naive", "blockwise"):
        module, params, batch = make("softmax", **WINDOWS, attention_backend=backend, remat=remat)

        def loss(params, module=module, batch=batch):
            y, trained = (module.apply({"params": params}, batch, train=train) for train in (False, True))
            return jnp.sum(jnp.sin(y)), (y, trained)

        results[backend] = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    (_, (y, trained)), _ = results["naive"]
    np.testing.assert_allclose(trained, y, atol=1e-5 * np.abs(y).max())
    for found, expected in zip(*map(jax.tree.leaves, (results["blockwise"], results["naive"])), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4 * max(1, np.abs(expected).max()))


@functools.cache
def quantized(variant, scheme="w8a8", method="static", granularity="channel", **options):
    module, params, batch = make(variant, **options)
    config = QuantizationConfig(recipe="strict", weight_granularity=granularity)
    recipe = config.make_recipe(scheme, module.config)
    return calibrate(module, params, recipe, [batch], 1, METHODS[method]()), params, batch


INTEGERS = [
    ("softmax", {"tied": True}),
    ("softmax", {"windows": (0, 3)}),
    ("clipped_softmax,alpha=1", {}),
    ("gated_elementwise,gate_place=values", {}),
]


@pytest.mark.long
@pytest.mark.parametrize("variant, options", INTEGERS)
def test_integers_compute_what_fake_quantization_simulates(monkeypatch, variant, options):
    monkeypatch.setattr(products, "faster_in_bfloat16", lambda: False)
    result, _, batch = quantized(variant, **options)
    result = off_the_edges(result)
    model = convert(result)
    assert model.in_floating_point == (("head/product",) if "tied" in options else ("head/logits",))
    found = list(dots(jax.make_jaxpr(lambda b: model.apply(b))(batch).jaxpr))
    # query, key, value, out; the two products of attention; in, gate and out of the MLP; and a dense gate.
    assert found == [("int8", "int8", "int32")] * (9 + variant.startswith("gated"))
    assert_same_answers(model, result, batch)


@pytest.mark.long
@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"static"}))
def test_every_method_quantizes_it(method):
    result, params, batch = quantized("softmax", "w16a16", method)
    expected = result.module.apply({"params": params}, batch)
    assert np.linalg.norm(result.apply(batch) - expected) < 1e-2 * np.linalg.norm(expected)
    if method not in ("per_token", "dynamic"):  # whose ranges integers do not know
        result, _, batch = quantized("softmax", "w8a8", method)
        result = off_the_edges(result)
        model = convert(result)
        assert {path for path in model.in_floating_point if "rotation" not in path} == {"head/logits"}
        assert_same_answers(model, result, batch)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("granularity", ["tensor", "group,num_groups=3"])
def test_the_strict_recipe_fits_it(granularity, tied):
    module, params, batch = make("softmax", tied=tied)
    config = QuantizationConfig(recipe="strict", activation_granularity=granularity)
    recipe = config.make_recipe("w8a8", module.config)
    weights, sites = quantizers_of(read(module, batch), recipe)
    assert weights.keys() == flatten(params).keys() - {"head/logits/kernel"}
    of_dimensions = {path for path, quantizer in sites.items() if isinstance(quantizer.granularity, Group)}
    wide = {"attention_norm", "attention/out", "attention_residual", "mlp_norm", "mlp/out", "mlp_residual"}
    assert of_dimensions == ({f"layers/{site}" for site in wide} if granularity != "tensor" else set())


@pytest.mark.slow
def test_its_operations_are_counted():
    module, _, batch = make("softmax")
    tokens, heads, shared, width, mlp = 4 * 8, 4 * 6, 2 * 6, 18, 20
    layer = 2 * tokens * (width * (2 * heads + 2 * shared) + 3 * width * mlp) + 2 * (2 * tokens * 8 * heads)
    assert step_flops(module, batch) == 3 * (2 * layer + 2 * tokens * width * 23)


@pytest.mark.parametrize(
    "variant, options, says",
    [
        ("softmax", {"num_kv_heads": 3}, "num_kv_heads is 3: expected a divisor of num_heads 4"),
        ("gated_linear", {}, "num_heads 4 does not divide width 18"),
    ],
)
def test_heads_that_cannot_be_are_refused(variant, options, says):
    with pytest.raises(QtxError, match=says):
        make(variant, **options)
