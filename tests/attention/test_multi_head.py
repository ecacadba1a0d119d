"""MultiHeadAttention over every variant: against a plain reference, its sites, its parameter counts, its precision."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.attention import GATES, VARIANTS, AttentionConfig, AttentionSpec, MultiHeadAttention, Rows
from qtx.attention.gates import AllHeadsLinearGate, DenseGate, ElementwiseGate, HeadwiseGate, LinearGate, MlpGate
from qtx.attention.normalizers import ClippedSoftmax, Sink
from qtx.attention.parameters import Parameter
from qtx.foundation.config import flattened, read_section, section
from qtx.foundation.errors import QtxError
from qtx.masks import Mask

VARIANT_NAMES = sorted(VARIANTS)
B, T, H, D = 2, 6, 3, 4


def make(config, deterministic=True, **options):
    module = MultiHeadAttention(AttentionSpec(H, config, init_std=0.5, **options), deterministic)
    x = jax.random.normal(jax.random.key(0), (B, T, H * D))
    return module, nn.unbox(module.init(jax.random.key(1), x)), x


def gate_logits(gate, p, x):
    """`[T, H, 1 or D]` of one example `[T, H * D]`, head by head."""
    if isinstance(gate, DenseGate):
        return (x @ p["kernel"] + p.get("bias", 0.0)).reshape(len(x), H, -1)
    logits = np.zeros((len(x), H, 1))
    for h in range(H):
        of_head = x[:, h * D : (h + 1) * D]
        if "hidden_kernel" in p:
            of_head = np.maximum(of_head @ p["hidden_kernel"][h] + p["hidden_bias"][h], 0)
        logits[:, h, 0] = of_head @ p["kernel"][h] + p["bias"][h]
    return logits


def reference(params, x, config, mask, residual):
    """The paper's equations head by head, in NumPy; the normalizer itself is tested against its formula elsewhere."""
    p, x = jax.tree.map(np.asarray, params), np.asarray(x)
    heads = {n: (x @ p[n]["kernel"] + p[n]["bias"]).reshape(B, T, H, D) for n in ("query", "key", "value")}
    gate, factor = config.gate, np.ones((B, T, H, 1))
    if gate is not None:
        read = x if gate.input == "normed" else residual
        logits = np.stack([gate_logits(gate, p["gate_predictor"], of_example) for of_example in read])
        factor = gate.scale / (1 + np.exp(-logits))
        if gate.place == "values":
            heads["value"], factor = heads["value"] * factor, np.ones((B, T, H, 1))
    scores = np.einsum("bthd,bshd->bhts", heads["query"], heads["key"]) / np.sqrt(D)
    probs = config.normalizer(p.get("normalizer", {}), scores.astype(np.float32), Rows(mask))
    context = np.einsum("bhts,bshd->bthd", np.asarray(probs), heads["value"]) * factor
    return context.reshape(B, T, H * D) @ p["out"]["kernel"] + p["out"]["bias"]


CONFIGS = {name: VARIANTS[name].trained_at(T) for name in VARIANT_NAMES} | {
    f"gate {kind}, {option}": AttentionConfig(gate=gate(scale=2.0, **changed))
    for kind, gate in GATES.items()
    for option, changed in {
        "scaled": {},
        "of the residual": {"input": "residual"},
        "on the values": {"place": "values"},
    }.items()
}


@pytest.mark.representative("False-*softmax*", "False-sink", "False-gated_*", "False-gate *, on the values")
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("causal", [False, True])
def test_equals_the_reference(name, causal):
    config = CONFIGS[name]
    module, variables, x = make(config)
    variables = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(5), leaf.shape), variables)
    residual = jax.random.normal(jax.random.key(3), x.shape)
    keys = jnp.stack([jnp.ones(T, bool), jnp.arange(T) < T - 2])
    mask = Mask(T, causal, padding=keys)
    expected = reference(variables["params"], x, config, mask, residual)
    np.testing.assert_allclose(module.apply(variables, x, Rows(mask), residual), expected, atol=5e-5)


@pytest.mark.parametrize("name", VARIANT_NAMES)
def test_sites(name):
    module, variables, x = make(VARIANTS[name].trained_at(T))
    _, captured = module.apply(variables, x, capture_intermediates=True)
    shapes = {k: v["__call__"][0].shape for k, v in captured["intermediates"].items() if isinstance(v, dict)}
    expected = {k: (B, T, H * D) for k in ("query", "key", "value", "context", "out")}
    expected |= {"scores": (B, H, T, T), "probs": (B, H, T, T)}
    gate = VARIANTS[name].gate
    if gate is not None:
        each = gate_logits(gate, jax.tree.map(np.asarray, variables["params"]["gate_predictor"]), x[0]).shape[-1]
        expected |= {"gate": (B, T, H * each), "gated_context": (B, T, H * D)}
    assert {k: shapes[k] for k in expected} == expected


@pytest.mark.parametrize(
    "gate, count",
    # The paper's Table 4, per layer of BERT-base: H = 12 heads of d_h = 64, width 768.
    [
        (LinearGate(), 12 * (64 + 1)),
        (MlpGate(hidden=4), 12 * (4 * (64 + 2) + 1)),
        (MlpGate(hidden=64), 12 * (64 * (64 + 2) + 1)),
        (AllHeadsLinearGate(), 12 * (768 + 1)),
        # Without biases: 12 x 768 and 768 x 768.
        (HeadwiseGate(), 12 * 768),
        (ElementwiseGate(), 768 * 768),
    ],
)
def test_gate_parameter_counts_are_those_of_table_4(gate, count):
    module = MultiHeadAttention(AttentionSpec(12, AttentionConfig(gate=gate)), True)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 2, 768)))["params"]["gate_predictor"]
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count


BIASED = [name for name, gate in GATES.items() if "pi" in {field.name for field in dataclasses.fields(gate)}]


@pytest.mark.parametrize(
    "gate, pi", [(gate, pi) for gate in BIASED for pi in (0.1, 0.25, 0.9)] + [(g, None) for g in GATES]
)
def test_gates_start_open_by_pi_or_half(gate, pi):
    module, variables, x = make(AttentionConfig(gate=GATES[gate](**({} if pi is None else {"pi": pi}))))
    pi = 0.5 if pi is None else pi
    _, captured = module.apply(variables, 0 * x, capture_intermediates=True)
    np.testing.assert_allclose(captured["intermediates"]["gate"]["__call__"][0], pi, rtol=1e-6)


def test_dropout_follows_the_clip():
    config = AttentionConfig(ClippedSoftmax(gamma=-0.05))
    module, variables, x = make(config, dropout=0.5, deterministic=False)
    rngs = {"dropout": jax.random.key(2)}
    _, captured = module.apply(variables, x, rngs=rngs, capture_intermediates=True)
    probs = captured["intermediates"]["probs"]["__call__"][0]
    dropped = captured["intermediates"]["Dropout_0"]["__call__"][0]
    kept = np.asarray(dropped) != 0
    np.testing.assert_allclose(np.asarray(dropped)[kept], 2 * np.asarray(probs)[kept], rtol=1e-6)
    assert 0.2 < kept.mean() < 0.8


@pytest.mark.parametrize("name", VARIANT_NAMES)
def test_probabilities_and_gates_are_float32_under_bfloat16(name):
    module, variables, x = make(VARIANTS[name].trained_at(T), dtype=jnp.dtype("bfloat16"))
    y, captured = module.apply(variables, x, capture_intermediates=True)
    assert y.dtype == jnp.bfloat16
    for site in {"scores", "probs", "gate"} & captured["intermediates"].keys():
        assert captured["intermediates"][site]["__call__"][0].dtype == jnp.float32


@pytest.mark.parametrize("name", VARIANT_NAMES)
def test_a_section_gives_the_variant_back(name):
    for shown in (flattened(VARIANTS[name]), section(VARIANTS[name])):
        assert read_section(AttentionConfig, shown, "config.model.attention") == VARIANTS[name]


def test_parameters_of_normalizers_and_gates_are_on_the_mesh_axes():
    module, _, x = make(AttentionConfig(Sink(), ElementwiseGate()))
    boxed = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    assert boxed["normalizer"]["sinks"].names == ("heads",)
    assert boxed["gate_predictor"]["kernel"].names == ("embed", "heads")


@pytest.mark.parametrize(
    "options, says",
    [
        ({"normalizer": "clipped"}, "clipped_softmax"),
        ({"gate": "linaer"}, "did you mean 'linear'"),
        ({"alpha": 4.0}, "belongs to clipped_softmax"),
        ({"gate_pi": 0.5}, "gate_pi is set"),
        ({"gate": "linear", "gate_hidden": 3}, "belongs to mlp"),
        ({"gate": "linear", "gate_pi": 1.0}, "between 0 and 1"),
        ({"gate": "linear", "gate_scale": 0.0}, "positive"),
        ({"gate": "mlp", "gate_hidden": 0}, "at least 1"),
        ({"gate": "elementwise", "gate_pi": 0.3}, "belongs to linear, mlp, all_heads_linear"),
        ({"gate": "linear", "gate_place": "contexts"}, "did you mean 'context'"),
        ({"gate": "linear", "gate_input": "raw"}, "normed, residual"),
    ],
)
def test_bad_configs_are_refused(options, says):
    with pytest.raises(QtxError, match=says):
        read_section(AttentionConfig, options, "config.model.attention")


def test_a_parameter_has_no_more_axes_than_dimensions():
    class Strange(LinearGate):
        def parameters(self, num_heads, features):
            return {"kernel": Parameter((2, 4), None, ("heads", None, "mlp"))}

    layer = MultiHeadAttention(AttentionSpec(2, AttentionConfig(gate=Strange())), True)
    with pytest.raises(QtxError, match="has axes .* for shape .*: too many"):
        layer.init(jax.random.key(0), jnp.ones((1, 3, 8)))


def test_a_gate_that_leaves_its_input_out_is_refused():
    class Constant(LinearGate):
        def __call__(self, parameters, x):
            return parameters["bias"]

    layer = MultiHeadAttention(AttentionSpec(2, AttentionConfig(gate=Constant())), True)
    with pytest.raises(QtxError, match=r"Constant gives logits \(2,\), expected \(1, 3, 2, 1\), one for a head, or"):
        layer.init(jax.random.key(0), jnp.ones((1, 3, 8)))
