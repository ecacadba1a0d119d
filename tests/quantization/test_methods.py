"""Every post-training quantization method on every family: it leaves the function alone, and does what it is for."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from qtx.anatomy import read
from qtx.families import FAMILIES
from qtx.foundation.errors import QtxError
from qtx.quantization import QuantizationConfig, calibrate
from qtx.quantization.affine import fake_quantize, make_grid
from qtx.quantization.basis import basis_of, enter, leave
from qtx.quantization.estimators import MinMax
from qtx.quantization.granularity import Channel, InputGroup, Tensor, Token
from qtx.quantization.methods import METHODS, Awq, Gptq, Hadamard, Problem, Quarot, SmoothQuant, make_method
from qtx.quantization.methods.gptq import _round_kernel, gptq
from qtx.quantization.methods.hadamard import random_signs
from qtx.quantization.methods.inputs import of_inputs
from qtx.quantization.methods.smoothquant import factors
from qtx.quantization.plan import Planned, flatten
from tests.quantization.test_calibration import apply, difference, make

# What each method is to improve over the static one, and where: outliers of activations, or few bits of weights. In
# post-LN BERT a LayerNorm's outlier also passes through the residual sums, where smoothing does not reach.
WITHOUT_GATES = {"bert", "opt", "vit"}
"""Families whose feed-forward networks are not gated: what follows an outlier planted in a norm is linear in it."""
BETTER = {
    "static": {},
    "per_token": {"w8a4": WITHOUT_GATES},
    "dynamic": {},
    "smoothquant": {"w8a4": {"opt", "vit"}},
    "awq": {},
    "hadamard": {"w8a4": WITHOUT_GATES},
    "quarot": {"w8a4": {"llama"}},
    "gptq": {},
}
OUTLIER, FAR_OUTLIER = 50.0, 100.0
ONLY = {"quarot": {"llama"}}
"""The families of the methods that are not for all."""
CASES = [(method, family) for method in METHODS for family in sorted(FAMILIES) if family in ONLY.get(method, FAMILIES)]
IN_TURN = [case for i, case in enumerate(CASES) if i % 2 == 0]
"""Every method on one family or two, every family with two methods or three."""


@functools.cache
def with_outlier(family, outlier=OUTLIER):
    """A model whose LayerNorm outputs have an outlier dimension, which the kernels after them take back."""
    module, params, batches = make(family, "gated_linear" if family == "opt" else "softmax")
    flat = traverse_util.flatten_dict(params, sep="/")
    for layer in ("attention/query", "attention/key", "attention/value", "mlp/in", "mlp/gate"):
        if f"layers/{layer}/kernel" not in flat:
            continue
        flat[f"layers/{layer}/kernel"] = flat[f"layers/{layer}/kernel"].at[:, 3].divide(outlier)
    first = ("embeddings/norm",) if module.config.reads == "tokens" and not module.config.pre_norm else ()
    norms = ("layers/attention_norm", "layers/mlp_norm", *first)
    for norm in norms:
        flat[f"{norm}/scale"] = flat[f"{norm}/scale"].at[..., 3].multiply(outlier)
    return module, traverse_util.unflatten_dict(flat, sep="/"), batches[0]


@functools.cache
def quantized(method, family, scheme, outlier=OUTLIER):
    module, params, batch = with_outlier(family, outlier)
    options = QuantizationConfig(recipe=FAMILIES[family].recipe, weight_estimator="minmax")
    recipe = options.make_recipe(scheme, module.config)
    return calibrate(module, params, recipe, [batch], 1, make_method(method))


def error(method, family, scheme, outlier=OUTLIER):
    result, (_, params, batch) = quantized(method, family, scheme, outlier), with_outlier(family, outlier)
    return difference(result, rewritten(method, result.module, params), batch)


def rewritten(method, module, params):
    return METHODS[method]().rewrite(module, params)[1]


def without_bits(ranges):
    return {path: {**r, "bits": jnp.zeros_like(r["bits"])} for path, r in ranges.items()}


def without_grids(result, method, params, batch):
    """A model quantized by a method with every grid off: only the bases remain, and a basis changes nothing."""
    weight_ranges, params = without_bits(result.weight_ranges), rewritten(method, result.module, params)
    problem = SimpleNamespace(
        **{"plan": result.weight_plan, "params": params, "ranges": weight_ranges},
        inputs=lambda *statistic: of_inputs(result.module, params, [batch], tuple(statistic[0]), *statistic[1:], {}),
    )
    unrounded = METHODS[method]().round_weights(problem)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), unrounded, params)
    activation_ranges = without_bits(result.activation_ranges)
    return dataclasses.replace(
        result, params=unrounded, weight_ranges=weight_ranges, activation_ranges=activation_ranges
    )


@pytest.mark.slow
@pytest.mark.parametrize("method, family", IN_TURN)
def test_every_method_on_families_in_turn(method, family):
    module, params, batch = with_outlier(family)
    result = without_grids(quantized(method, family, "w8a4"), method, params, batch)
    found, expected = apply(result, batch), jax.jit(module.apply)({"params": params}, batch)
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
    assert error(method, family, "w16a16") < 1e-2
    for scheme, families in BETTER[method].items():
        if family in families:
            assert error(method, family, scheme) < 0.9 * error("static", family, scheme)


def of_site(found, path):
    """What a site held, `[L, B, T, D]`, or `[B, T, D]` outside the layers."""
    for key in path.split("/"):
        found = found[key]
    return np.asarray(found["__call__"][0], np.float64)


def pairs(family):
    """Every dense layer of the blocks, with the site that it multiplies in each layer: (path, index or None)."""
    post_norm = [("embeddings/norm", None), ("layers/mlp_norm", 0)]
    norm = "layers/attention_in" if family == "modern_bert" else "layers/attention_norm"
    attention = post_norm if family in ("bert", "rotary_bert") else [(norm, 0), (norm, 1)]
    mlp = "layers/attention_norm" if family in ("bert", "rotary_bert") else "layers/mlp_norm"
    context = "layers/attention/gated_context" if family == "opt" else "layers/attention/context"
    before = {
        **{f"layers/attention/{name}": attention for name in ("query", "key", "value")},
        "layers/attention/out": [(context, 0), (context, 1)],
        "layers/mlp/in": [(mlp, 0), (mlp, 1)],
        "layers/mlp/out": [("layers/mlp/hidden", 0), ("layers/mlp/hidden", 1)],
    }
    return [(layer, index, *site) for layer, found in before.items() for index, site in enumerate(found)]


def matrix(r, index, size):
    """M of a range, `[D, D]` float64, written out."""
    if "hadamard" in r:
        signs = r["hadamard"] if index is None else r["hadamard"][index]
        return np.asarray(enter(jnp.eye(size), {"hadamard": signs}), np.float64)
    if "smooth" in r:
        return np.diag(1 / np.asarray(r["smooth"] if index is None else r["smooth"][index], np.float64))
    return np.eye(size)


@pytest.mark.long
@pytest.mark.parametrize("method, family", CASES)
def test_what_meets_is_in_bases_that_match(method, family):
    """x W = (x M) (M^-1 W) for the integers x M of a site and M^-1 W of each kernel that multiplies it; a basis that is
    one side's alone would cancel in a simulation, but not in integers."""
    module, params, batch = with_outlier(family, FAR_OUTLIER)
    result = quantized(method, family, "w16a16", FAR_OUTLIER)
    module, params = result.module, rewritten(method, result.module, params)
    found = jax.jit(lambda b: module.apply({"params": params}, b, capture_intermediates=True)[1])(batch)
    checked = 0
    for layer, index, site, site_index in pairs(family):
        if site not in result.activation_ranges:
            continue
        kernel = np.asarray(flatten(params)[f"{layer}/kernel"][index])
        x = of_site(found["intermediates"], site)
        x = (x if site_index is None else x[site_index]).reshape(-1, len(kernel))
        left = matrix(basis_of(result.activation_ranges[site]), site_index, len(kernel))
        right = np.linalg.inv(matrix(basis_of(result.weight_ranges[f"{layer}/kernel"]), index, len(kernel)))
        expected = x @ kernel.astype(np.float64)
        np.testing.assert_allclose(
            x @ left @ right @ kernel, expected, atol=1e-4 * np.abs(expected).max(), err_msg=layer
        )
        checked += 1
    assert checked >= 10


@pytest.mark.long
@pytest.mark.parametrize("method, family", IN_TURN)
def test_outliers_cost_16_bits_their_rounding_alone(method, family):
    """The error is that of independent, uniform roundings on the tensors' own ranges: step^2 / 12 each, as a share of
    what the dimensions without the outlier hold."""
    module, params, batch = with_outlier(family, FAR_OUTLIER)
    result = quantized("static", family, "w16a16", FAR_OUTLIER)
    found = jax.jit(lambda b: module.apply({"params": params}, b, capture_intermediates=True)[1])(batch)
    share = 0.0
    for path in result.activation_ranges:
        x = of_site(found["intermediates"], path)
        if path != "layers/attention/scores":  # masked positions count for its range, and are thrown away
            bulk = np.delete(x, 3, axis=-1) if x.shape[-1] == 16 else x
            share += ((x.max() - x.min()) / (2**16 - 1)) ** 2 / 12 / np.mean(np.square(bulk))
    assert error(method, family, "w16a16", FAR_OUTLIER) < 10 * np.sqrt(share)


@pytest.mark.slow
@pytest.mark.parametrize("method, family", [("smoothquant", "opt"), ("hadamard", "opt"), ("smoothquant", "vit")])
def test_at_8_bits_outliers_cost_the_static_method_most(method, family):
    """A rotation of 16 dimensions takes an outlier down by 4 alone, too little for the other families."""
    assert error(method, family, "w8a8", FAR_OUTLIER) < error("static", family, "w8a8", FAR_OUTLIER)


def test_every_method_has_a_row():
    assert BETTER.keys() == METHODS.keys()


@pytest.mark.parametrize(
    "method, options, says",
    [
        (SmoothQuant, {"alpha": 1.5}, "alpha is 1.5"),
        (Hadamard, {"seed": -1}, "seed is -1"),
        (Quarot, {"seed": -1}, "seed is -1"),
        (Awq, {"steps": 1}, "steps is 1"),
        (Gptq, {"damping": 0.0}, "damping is 0.0"),
    ],
)
def test_bad_options_are_refused(method, options, says):
    with pytest.raises(QtxError, match=says):
        method(**options)


@pytest.mark.slow
def test_per_token_keeps_what_the_recipe_leaves():
    result, static = quantized("per_token", "opt", "w8a4"), quantized("static", "opt", "w8a4")
    assert result.activation_ranges.keys() == static.activation_ranges.keys()
    assert all(planned.granularity == Token() for planned in result.activation_plan)
    assert result.weight_plan == static.weight_plan


def test_smoothing_factors_by_hand():
    s = factors(jnp.array([100.0, 1.0, 0.0, 4.0]), jnp.array([0.25, 1.0, 2.0, 0.0]), 0.5)
    np.testing.assert_allclose(s, [20.0, 1.0, 1.0, 1.0], rtol=1e-6)


@pytest.mark.slow
def test_smoothing_gives_activations_and_weights_the_same_maxima():
    """At alpha = 0.5 both are sqrt(max|x| max|w|) in every channel."""
    module, params, batch = with_outlier("opt")
    result = quantized("smoothquant", "opt", "w8a4")
    x = jax.jit(lambda b: module.apply({"params": params}, b, capture_intermediates=True)[1])(batch)
    x = x["intermediates"]["layers"]["mlp_norm"]["__call__"][0]
    s = result.weight_ranges["layers/mlp/in/kernel"]["smooth"]
    of_x = jnp.abs(x).max(axis=(1, 2)) / s
    np.testing.assert_allclose(of_x, jnp.abs(params["layers"]["mlp"]["in"]["kernel"]).max(axis=2) * s, rtol=1e-3)


def problem_of(family="opt", scheme="w8a8", **options):
    module, params, batch = with_outlier(family)
    recipe = QuantizationConfig(recipe=FAMILIES[family].recipe, **options).make_recipe(scheme, module.config)
    return Problem(read(module, batch), module, params, recipe, [batch])


def bases_of(method):
    return make_method(method).find_bases(problem_of())


@pytest.mark.slow
def test_alpha_says_whose_maxima_become_one():
    """At alpha = 0 the weight's, in every channel, and at alpha = 1 the activation's."""
    module, params, batch = with_outlier("opt")
    x = jax.jit(lambda b: module.apply({"params": params}, b, capture_intermediates=True)[1])(batch)
    of_x = jnp.abs(x["intermediates"]["layers"]["mlp_norm"]["__call__"][0]).max(axis=(1, 2))
    of_weight = jnp.abs(params["layers"]["mlp"]["in"]["kernel"]).max(axis=2)
    weights_one, activations_one = (
        bases_of(f"smoothquant,alpha={alpha}")["layers/mlp/in/kernel"]["smooth"] for alpha in (0, 1)
    )
    np.testing.assert_allclose(of_weight * weights_one, np.ones_like(of_weight), rtol=1e-3)
    np.testing.assert_allclose(of_x / activations_one, np.ones_like(of_x), rtol=1e-3)


@pytest.mark.slow
def test_the_seed_changes_signs_alone():
    first, other, same = (bases_of(f"hadamard,seed={seed}")["layers/mlp/hidden"]["hadamard"] for seed in (0, 3, 0))
    assert (first == same).all() and not (first == other).all() and (abs(first) == abs(other)).all()


@pytest.mark.slow
def test_methods_in_turn_find_the_bases_of_each():
    smooth, rotated, both = (
        bases_of(method) for method in ("smoothquant", "hadamard", "smoothquant + hadamard + gptq")
    )
    assert both.keys() == smooth.keys() | rotated.keys() and bases_of("gptq") == {}
    jax.tree.map(
        np.testing.assert_array_equal, both, {path: smooth.get(path, {}) | rotated.get(path, {}) for path in both}
    )
    assert both["layers/mlp_norm"].keys() == {"smooth", "hadamard"}


@pytest.mark.slow
def test_much_damping_rounds_to_nearest():
    """H + a large multiple of the identity tells of no inputs."""
    damped, nearest, usual = (
        flatten(quantized(method, "opt", "w8a4").params) for method in ("gptq,damping=1e9", "static", "gptq")
    )
    jax.tree.map(np.testing.assert_array_equal, damped, nearest)
    assert not all((usual[path] == nearest[path]).all() for path in usual)


@pytest.mark.slow
def test_in_bert_the_kernels_smoothing_is_that_of_the_layernorm_before_them():
    result = quantized("smoothquant", "bert", "w8a4")
    query, mlp = (result.weight_ranges[f"layers/{name}/kernel"]["smooth"] for name in ("attention/query", "mlp/in"))
    sites = result.activation_ranges
    np.testing.assert_array_equal(sites["embeddings/norm"]["smooth"], query[0])
    np.testing.assert_array_equal(sites["layers/mlp_norm"]["smooth"], [query[1], np.ones_like(query[1])])
    np.testing.assert_array_equal(sites["layers/attention_norm"]["smooth"], mlp)


def correlated(rng, rows, size):
    return (rng.normal(size=(rows, 4)) @ rng.normal(size=(4, size)) + 0.2 * rng.normal(size=(rows, size))).astype("f4")


def reference_gptq(kernel, hessian, damping, scale, low, high):
    """Frantar et al. 2022, algorithm 1, without blocks, in float64, with the inverse spelt out."""
    w, h = kernel.astype(np.float64), hessian.astype(np.float64)
    h = h + damping * np.diag(h).mean() * np.eye(len(h))
    upper, scale = np.linalg.cholesky(np.linalg.inv(h)).T, np.broadcast_to(scale, w.shape)
    for j in range(len(w)):
        q = np.clip(np.round(w[j] / scale[j]), low, high) * scale[j]
        w[j + 1 :] -= np.outer(upper[j, j + 1 :], (w[j] - q) / upper[j, j])
        w[j] = q
    return w


@pytest.mark.parametrize("size, per_channel", [(24, False), (256, True)])
def test_gptq_is_the_papers_algorithm(size, per_channel):
    rng = np.random.default_rng(0)
    x, kernel = correlated(rng, 600, size), rng.normal(size=(size, 6)).astype("f4")
    ends = np.abs(kernel).max(axis=0 if per_channel else None)
    grid = make_grid(-ends, ends, 3, symmetric=True)
    to_grid = lambda row, j: fake_quantize(row, grid)  # noqa: E731
    rounded = np.asarray(jax.jit(lambda k, h: gptq(k, h, 0.01, to_grid))(kernel, x.T @ x))
    expected = reference_gptq(kernel, x.T @ x, 0.01, np.asarray(grid.scale), -4, 3)
    # In float32 a value next to the middle of a step may fall on its other side, and change what follows in its column.
    assert np.isclose(rounded, expected, atol=1e-4).mean() > 0.97
    nearest = np.asarray(fake_quantize(kernel, grid))
    assert np.linalg.norm(x @ (kernel - rounded)) < 0.6 * np.linalg.norm(x @ (kernel - nearest))


def test_gptq_rounds_each_row_on_the_grid_of_its_group():
    """The grids are those of the weights as they are before any row is rounded."""
    rng = np.random.default_rng(0)
    x, kernel = correlated(rng, 300, 24), rng.normal(size=(24, 5)).astype("f4")
    ends = np.stack([np.abs(kernel[6 * g : 6 * g + 6]).max(axis=0) for g in range(4)])
    r = {"bits": jnp.float32(3), "minimum": jnp.asarray(-ends), "maximum": jnp.asarray(ends)}
    planned = Planned("out/kernel", True, MinMax(), InputGroup(6), False)
    rounded = _round_kernel(planned, False, jnp.asarray(kernel), jnp.asarray(x.T @ x), r, 0.01)
    expected = reference_gptq(kernel, x.T @ x, 0.01, np.repeat(ends / 3, 6, axis=0), -4, 3)
    assert np.isclose(rounded, expected, atol=1e-4).mean() > 0.97


@pytest.mark.representative("none-granularity0", "smooth-granularity1", "hadamard-granularity0")
@pytest.mark.parametrize("granularity", [Tensor(), Channel()])
@pytest.mark.parametrize("basis", ["none", "smooth", "hadamard"])
def test_gptq_rounds_in_the_basis_of_the_range(granularity, basis):
    rng = np.random.default_rng(0)
    x, kernel = correlated(rng, 300, 12), rng.normal(size=(2, 12, 5)).astype("f4")
    x[:, 7] = 0  # no input reaches this row: it is rounded to nearest
    bases = {"smooth": rng.uniform(0.5, 2, (2, 12)).astype("f4"), "hadamard": np.stack([random_signs(12, 0)] * 2)}
    own = {basis: jnp.asarray(bases[basis])} if basis in bases else {}
    in_basis = jax.vmap(lambda w, b: enter(w, b, weight=True))(jnp.asarray(kernel), own)
    ends = jnp.abs(in_basis).max(axis=(1, 2) if granularity == Tensor() else 1)
    r = {"bits": jnp.full(2, 3.0), "minimum": -ends, "maximum": ends, **own}
    planned = Planned("layers/mlp/in/kernel", True, MinMax(), granularity, False)
    rounded = _round_kernel(planned, True, jnp.asarray(kernel), jnp.stack([x.T @ x] * 2), r, 0.01)
    steps = jax.vmap(lambda w, b: enter(w, b, weight=True))(rounded, own)
    scale = np.asarray(ends / 3)[:, None, None] if granularity == Tensor() else np.asarray(ends / 3)[:, None]
    np.testing.assert_allclose(steps / scale, np.round(steps / scale), atol=1e-4)
    nearest = jax.vmap(lambda w, b: leave(w, b, weight=True))(np.clip(np.round(in_basis / scale), -4, 3) * scale, own)
    if basis != "hadamard":
        np.testing.assert_allclose(rounded[:, 7], nearest[:, 7], rtol=1e-4)
    assert np.linalg.norm(x @ (kernel - rounded)) < np.linalg.norm(x @ (kernel - nearest))


@pytest.mark.slow
def test_gptq_beats_nearest_rounding_in_a_model():
    module, params, batches = make("opt", "gated_linear")
    recipe = QuantizationConfig(recipe="paper_opt", weight_estimator="minmax").make_recipe("w3a16", module.config)
    results = [calibrate(module, params, recipe, batches, 3, METHODS[name]()) for name in ("static", "gptq")]
    nearest, rounded = (np.mean([difference(result, params, batch) for batch in batches]) for result in results)
    assert rounded < nearest


@pytest.mark.slow
def test_bfloat16_models_and_gptq_in_a_rotation():
    module, params, batch = with_outlier("opt")
    module = type(module)(dataclasses.replace(module.config, dtype="bfloat16"))
    recipe = QuantizationConfig(recipe="paper_opt").make_recipe("w8a8", module.config)
    result = calibrate(module, params, recipe, [batch], 1, make_method("hadamard + gptq"))
    assert np.isfinite(apply(result, batch)).all()
