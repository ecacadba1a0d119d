"""Methods one after another equal what is done by hand, one after the other."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from flax import traverse_util

from qtx.foundation.errors import QtxError
from qtx.quantization import QuantizationConfig, calibrate
from qtx.quantization.integer.grids import read_grids
from qtx.quantization.methods import make_method
from qtx.quantization.plan import flatten
from tests.quantization.test_calibration import difference, make

FED = {
    "layers/attention_norm": ("layers/attention/query", "layers/attention/key", "layers/attention/value"),
    "layers/mlp_norm": ("layers/mlp/in",),
}


@functools.cache
def model():
    return make("opt")


def quantized(params, method, scheme="w4a16", **options):
    module, _, (batch, *_) = model()
    config = QuantizationConfig(**{"recipe": "paper_opt", "weight_estimator": "minmax", "method": method, **options})
    return calibrate(module, params, config.make_recipe(scheme, module.config), [batch], 1, config.make_method())


def inputs():
    """The norms' outputs, `[L, N, D]`, of the floating-point model."""
    module, params, (batch, *_) = model()
    found = jax.jit(lambda b: module.apply({"params": params}, b, capture_intermediates=True)[1])(batch)
    of_layers = found["intermediates"]["layers"]
    held = {norm: np.asarray(of_layers[norm.rpartition("/")[2]]["__call__"][0], np.float64) for norm in FED}
    return {norm: x.reshape(len(x), -1, x.shape[-1]) for norm, x in held.items()}


def smoothed_by_hand(alpha):
    """s of each norm, and the parameters of the model that computes x / s and multiplies by s W."""
    flat = {path: np.asarray(x, np.float64) for path, x in flatten(model()[1]).items()}
    scales = {}
    for norm, x in inputs().items():
        of_weights = np.max([np.abs(flat[f"{layer}/kernel"]).max(axis=-1) for layer in FED[norm]], axis=0)
        s = scales[norm] = np.abs(x).max(axis=1) ** alpha / of_weights ** (1 - alpha)
        for name in ("scale", "bias"):
            flat[f"{norm}/{name}"] /= s
        for layer in FED[norm]:
            flat[f"{layer}/kernel"] *= s[..., None]
    return scales, traverse_util.unflatten_dict({path: x.astype("f4") for path, x in flat.items()}, sep="/")


@pytest.mark.slow
def test_smoothquant_and_gptq_are_a_smoothed_model_and_then_gptq():
    scales, params = smoothed_by_hand(0.6)
    both = quantized(model()[1], "smoothquant,alpha=.6 + gptq")
    after = quantized(params, "gptq")
    smooth = {layer: scales[norm] for norm, layers in FED.items() for layer in layers}
    for layer in (*smooth, "layers/attention/out", "layers/mlp/out"):
        path = f"{layer}/kernel"
        found, expected = (np.asarray(flatten(one.params)[path]) for one in (both, after))
        found = found * smooth[layer][..., None] if layer in smooth else found
        # A value next to the middle of a step may fall on its other side, and change what follows in its column.
        assert np.isclose(found, expected, rtol=1e-3, atol=1e-5).mean() > 0.97, path
        for end in ("minimum", "maximum"):
            ranges = [np.asarray(one.weight_ranges[path][end]) for one in (both, after)]
            np.testing.assert_allclose(*ranges, rtol=1e-4, err_msg=path)
    for norm in FED:
        ends = [np.asarray(one.activation_ranges[norm]["maximum"]) for one in (both, after)]
        np.testing.assert_allclose(*ends, rtol=0.05, err_msg=norm)
    nearest = flatten(quantized(model()[1], "smoothquant,alpha=.6").params)
    assert any((flatten(both.params)[path] != x).any() for path, x in nearest.items())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["smoothquant + hadamard", "per_token + smoothquant + hadamard + gptq"])
def test_many_bits_show_that_bases_in_turn_leave_the_function_alone(method):
    _, params, (batch, *_) = model()
    assert difference(quantized(params, method, "w16a16"), params, batch) < 1e-2


@pytest.mark.slow
def test_a_model_in_groups_of_inputs():
    """Finer than channels by the error of its weights, and refused by integers."""
    module, params, (batch, *_) = model()
    for method in ("static", "gptq"):
        channel, group = (
            quantized(params, method, "w3a16", weight_granularity=name) for name in ("channel", "input_group,size=4")
        )
        assert group.weight_ranges["layers/mlp/out/kernel"]["minimum"].shape == (2, 8, 16)
        assert difference(group, params, batch) < difference(channel, params, batch)
    with pytest.raises(QtxError, match="range per group of inputs: .*weight_granularity=channel"):
        read_grids(quantized(params, "static", "w8a8", weight_granularity="input_group,size=4"))


@pytest.mark.slow
def test_a_group_that_does_not_divide_is_told_with_its_kernel():
    says = r"'layers/.*/kernel': groups of 128 do not divide 16 inputs: choose a divisor, such as input_group,size=16"
    with pytest.raises(QtxError, match=says):
        quantized(model()[1], "static", weight_granularity="input_group")


def test_a_method_is_named_alike_with_and_without_spaces():
    assert make_method("smoothquant,alpha=.6+gptq") == make_method("smoothquant, alpha=0.6  +  gptq")
