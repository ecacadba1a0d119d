"""QuaRot and AWQ against readings of their papers in NumPy and float64, and caches of few bits."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import traverse_util
from scipy.linalg import block_diag, hadamard

from qtx.anatomy import read
from qtx.attention import attention_variant
from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import sealed_json
from qtx.models import OptConfig
from qtx.models.llama import LlamaConfig
from qtx.quantization import QuantizationConfig, Recipe, Rule, calibrate
from qtx.quantization.granularity import Tensor, Token, TokenGroup
from qtx.quantization.methods import Problem, make_method
from qtx.quantization.methods.hadamard import random_signs
from qtx.quantization.plan import flatten
from tests.quantization.test_calibration import make

SMALL = LlamaConfig(
    num_layers=2, width=16, num_heads=4, num_kv_heads=2, mlp_width=32, init_std=0.3, vocab_size=23, max_length=8
)
BATCH = {"tokens": np.random.default_rng(0).integers(0, 23, (4, 8))}


def model(config=SMALL, **options):
    """A model none of whose parameters are neutral, biases and norms included."""
    rng, module = np.random.default_rng(1), build(dataclasses.replace(config, **options))
    params = jax.eval_shape(module.init, jax.random.key(0), BATCH)["params"]
    flat = {
        path: (("scale" in path) + 0.3 * rng.normal(size=x.shape)).astype("f4")
        for path, x in flatten(nn.unbox(params)).items()
    }
    return module, traverse_util.unflatten_dict(flat, sep="/")


def logits(module, params):
    return np.asarray(jax.jit(module.apply)({"params": params}, BATCH), np.float64)


def held(module, params):
    """What each site holds, in float64."""
    found = jax.jit(lambda p: module.apply({"params": p}, BATCH, capture_intermediates=True)[1])(params)
    flat = traverse_util.flatten_dict(found["intermediates"], sep="/")
    arrays = {path.removesuffix("/__call__"): x[0] for path, x in flat.items() if isinstance(x[0], jax.Array)}
    return {path: np.asarray(x, np.float64) for path, x in arrays.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tied": False, "attention_bias": True, "attention_out_bias": True, "mlp_bias": True, "mlp_out_bias": True},
        {
            "norm_offset": 1.0,
            "qk_norm": True,
            "head_dim": 6,
            "embedding_scale": 4.0,
            "logit_cap": 5.0,
            "score_cap": 2.0,
        },
        {"prefix": 2, "attention_bias": True},
        {"width": 24, "num_heads": 6, "mlp_width": 20, "attention": attention_variant("gated_elementwise")},
    ],
)
def test_quarot_leaves_the_function_and_the_stream_is_rotated(options):
    module, params = model(**options)
    rotated, own = make_method("quarot").rewrite(module, params)
    before, after = logits(module, params), logits(rotated, own)
    assert np.abs(after - before).max() < 1e-5 * np.abs(before).max()
    old, new = held(module, params), held(rotated, own)
    # Found where there are more different tokens than dimensions: behind the layers.
    turn = np.linalg.lstsq(*(x["layers/mlp_residual"].reshape(64, -1) for x in (old, new)))[0]
    np.testing.assert_allclose(new["embeddings/out"], old["embeddings/out"] @ turn, atol=1e-5)
    np.testing.assert_allclose(turn.T @ turn, np.eye(len(turn)), atol=1e-5)
    assert np.abs(turn).max() < 0.3
    for site in ("attention_residual", "attention/out", "mlp/out"):
        expected = old[f"layers/{site}"] @ turn
        np.testing.assert_allclose(new[f"layers/{site}"], expected, atol=2e-5 * np.abs(expected).max(), err_msg=site)


@pytest.mark.slow
def test_quarots_parameters_are_the_papers():
    """Ashkboos et al. 2024, section 4, stage 1a and 1b, with Sylvester's matrices written out."""
    module, params = model()
    flat = {path: np.asarray(x, np.float64) for path, x in flatten(params).items()}
    stream = np.diag(random_signs(16, 5)) @ hadamard(16) / 4
    of_head = np.diag(random_signs(4, 5)) @ hadamard(4) / 2
    g = {name: flat[f"layers/{name}_norm/scale"][..., None] for name in ("attention", "mlp")}
    w = {path.removesuffix("/kernel"): x for path, x in flat.items() if path.endswith("/kernel")}
    table = flat["embeddings/words/embedding"]
    expected = {
        "embeddings/words/embedding": table @ stream,
        "layers/attention/query/kernel": stream.T @ (g["attention"] * w["layers/attention/query"]),
        "layers/attention/key/kernel": stream.T @ (g["attention"] * w["layers/attention/key"]),
        "layers/attention/value/kernel": stream.T
        @ (g["attention"] * w["layers/attention/value"])
        @ block_diag(of_head, of_head),
        "layers/attention/out/kernel": block_diag(*[of_head] * 4).T @ w["layers/attention/out"] @ stream,
        "layers/mlp/gate/kernel": stream.T @ (g["mlp"] * w["layers/mlp/gate"]),
        "layers/mlp/in/kernel": stream.T @ (g["mlp"] * w["layers/mlp/in"]),
        "layers/mlp/out/kernel": w["layers/mlp/out"] @ stream,
        "head/product/kernel": stream.T @ (flat["final_norm/scale"][:, None] * table.T),
        **{f"{norm}/scale": np.ones_like(flat[f"{norm}/scale"]) for norm in ("layers/attention_norm", "final_norm")},
        "layers/mlp_norm/scale": np.ones((2, 16)),
    }
    rotated, own = make_method("quarot,seed=5").rewrite(module, params)
    found = flatten(own)
    assert found.keys() == expected.keys() and rotated.config == dataclasses.replace(SMALL, tied=False)
    for path, x in expected.items():
        np.testing.assert_allclose(found[path], x, atol=1e-5, err_msg=path)
    jax.tree.map(np.testing.assert_array_equal, own, make_method("quarot,seed=5").rewrite(rotated, params)[1])


@pytest.mark.parametrize(
    "config, says",
    [
        (OptConfig(**{"num_layers": 1, "width": 16, "num_heads": 2, "vocab_size": 23}), "begin with no RMSNorm"),
        (dataclasses.replace(SMALL, branch_norms=True), "branches end in norms"),
        (dataclasses.replace(SMALL, head="none"), "it has no head"),
        (dataclasses.replace(SMALL, attention=attention_variant("gated_linear")), "reads each head's slice"),
    ],
)
def test_quarot_refuses_what_it_cannot_rotate(config, says):
    with pytest.raises(QtxError, match=f"quarot cannot rotate this model, as .*{says}.*choose hadamard"):
        make_method("quarot").rewrite(build(config), {})


def reference_awq(x, kernels, bits, size, steps):
    """Lin et al. 2023, section 3.2: s of the least error, of symmetric rounding per channel and group of rows."""
    best, mean = (np.inf, None), np.abs(x).mean(axis=0)
    for step in range(steps):
        s = mean ** (step / steps)
        s, cost = s / np.sqrt(s.max() * s.min()), 0.0
        for w in kernels:
            rounded = np.empty_like(w)
            for i in range(0, len(w), size):
                scaled = w[i : i + size] * s[i : i + size, None]
                grid = np.abs(scaled).max(axis=0) / (2 ** (bits - 1) - 1)
                rounded[i : i + size] = np.round(scaled / grid) * grid
            cost += np.square(x @ w - (x / s) @ rounded).sum()
        best = min(best, (cost, s), key=lambda pair: pair[0])
    return best[1]


@pytest.mark.slow
def test_awqs_scales_are_the_papers():
    module, params = model(num_kv_heads=4)
    flat, sites = flatten(params), held(module, params)
    options = QuantizationConfig(recipe="strict", weight_estimator="minmax", weight_granularity="input_group,size=8")
    recipe = options.make_recipe("w3a16", module.config)
    problem = Problem(read(module, BATCH), module, params, recipe, [BATCH])
    found = make_method("awq,steps=10").find_bases(problem)
    readers = {
        "attention_norm": ("attention/query", "attention/key", "attention/value"),
        "attention/context": ("attention/out",),
        "mlp_norm": ("mlp/gate", "mlp/in"),
        "mlp/hidden": ("mlp/out",),
    }
    distinct = set()
    for site, layers in readers.items():
        for i in range(2):
            x = sites[f"layers/{site}"][i]
            kernels = [np.asarray(flat[f"layers/{layer}/kernel"][i], np.float64) for layer in layers]
            s = reference_awq(x.reshape(-1, x.shape[-1]), kernels, 3, 8, 10)
            distinct.add(round(s.max(), 4))
            for path in (f"layers/{site}", *(f"layers/{layer}/kernel" for layer in layers)):
                np.testing.assert_allclose(found[path]["smooth"][i], s, rtol=1e-3, err_msg=path)
    assert len(distinct) > 4 and found["layers/mlp_norm/scale"]["smooth"].shape == (2, 16)


@pytest.mark.slow
def test_awq_leaves_a_context_whose_values_heads_share():
    module, params = model()
    recipe = QuantizationConfig(recipe="strict").make_recipe("w4a16", module.config)
    found = make_method("awq,steps=2").find_bases(Problem(read(module, BATCH), module, params, recipe, [BATCH]))
    assert "layers/mlp/out/kernel" in found and "layers/attention/out/kernel" not in found


def test_awq_without_kernels_is_refused():
    module, params = model()
    nothing = Recipe((Rule("*", None),), (Rule("*", None),))
    with pytest.raises(QtxError, match="awq finds no dense layer"):
        make_method("awq").find_bases(Problem(read(module, BATCH), module, params, nothing, [BATCH]))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["static", "per_token", "quarot"])
def test_a_cache_has_bits_of_its_own(method):
    """Keys after their rotation and values have a range for each token and head, all else what its method says."""
    module, params = model()
    config = QuantizationConfig(recipe="strict", method=method)
    result = calibrate(module, params, config.make_recipe("w16a16kv3", SMALL), [BATCH], 1, config.make_method())
    cached = {f"layers/attention/{name}" for name in ("rotated_key", "value")}
    for planned in result.activation_plan:
        bits = result.activation_ranges[planned.path]["bits"]
        left = Token() if method == "per_token" else Tensor()
        expected = (TokenGroup(4), 3) if planned.path in cached else (left, 16)
        assert (planned.granularity, bits.max()) == expected, planned.path
    found = jax.jit(lambda q: q.apply(BATCH, capture_intermediates=True, mutable=["intermediates"])[1])(result)
    value = np.asarray(found["intermediates"]["layers"]["attention"]["value"]["__call__"][0], np.float64)
    for of_head in value.reshape(-1, 4)[:20]:
        assert len(np.unique(np.round(of_head, 5))) <= 8
    exact = logits(result.module, make_method(method).rewrite(result.module, params)[1])
    assert 0.01 < np.linalg.norm(jax.jit(lambda q: q.apply(BATCH))(result) - exact) / np.linalg.norm(exact) < 0.6


@pytest.mark.parametrize(
    "family, options, cached",
    [
        ("llama", {}, ("rotated_key", "value")),
        ("opt", {}, ("key", "value")),
        ("bert", {"attention": attention_variant("gated_headwise,gate_place=values")}, ("key", "gated_value")),
    ],
)
def test_what_a_cache_holds(family, options, cached):
    config = dataclasses.replace(make(family)[0].config, **options)
    recipe = QuantizationConfig(recipe="strict").make_recipe("w8a8kv4", config)
    first = [(rule.pattern, rule.quantizer.bits, rule.quantizer.granularity.size) for rule in recipe.activations[:2]]
    assert first == [(f"*attention/{name}", 4, 8) for name in cached]


def test_recorded_recipes_hold_the_rules_of_the_scheme_without_its_cache(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("from qtx.quantization.recipes.strict import strict\n")
    config = QuantizationConfig(recipe=f"{file}:strict", schemes=("w8a8kv4", "w8a8", "w4a8kv8"))
    entries = config.recorded_rules(config.schemes, SMALL)
    assert list(entries) == ["w8a8", "w4a8"]
    (tmp_path / "recipe.json").write_bytes(sealed_json(entries))
    again = dataclasses.replace(config, recipe=str(tmp_path / "recipe.json"))
    assert again.make_recipe("w8a8kv4", SMALL) == config.make_recipe("w8a8kv4", SMALL)


@pytest.mark.parametrize("scheme", ["w8a8kv", "w8kv4", "w8a8kv1", "w8a8kv4x"])
def test_bad_schemes_are_refused(scheme):
    with pytest.raises(QtxError, match="scheme|bits"):
        QuantizationConfig(schemes=(scheme,))
