"""Calibration and quantized evaluation on eight virtual devices equal those on one.

Between them are sums in another order, so float32 values that differ in the last digits. Where such a value lies on the
edge between two integers, it moves by a step, and every range and value after it follows. So what comes before any
rounding is compared closely, and what comes after it by rows.
"""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

from qtx.quantization import ESTIMATORS, QuantizationConfig, Recipe, Rule, calibrate
from qtx.quantization.methods import METHODS
from qtx.quantization.plan import flatten
from qtx.training.program import abstract_params
from qtx.training.sharding import MeshConfig, make_mesh, param_shardings, shard_global_batch
from tests.quantization.test_calibration import apply, make

ONE, SHAPES = (1, 1, 1), [(2, 2, 2), (4, 1, 2), (1, 4, 2)]


def placed(shape):
    module, params, batches = make("opt", "gated_linear")
    mesh = make_mesh(MeshConfig(*shape))
    params = jax.device_put(params, param_shardings(mesh, abstract_params(module, batches[0])))
    return module, params, [shard_global_batch(mesh, batch) for batch in batches]


@functools.cache
def ranges(shape, estimator):
    """Of every weight, and of one site, the last: no activation is rounded before it, but every product is."""
    module, params, batches = placed(shape)
    config = QuantizationConfig(weight_estimator=estimator, activation_estimator=estimator)
    weight, activation = config.quantizers("w4a4")
    weights = calibrate(module, params, Recipe((Rule("*", weight),), (Rule("*", None),)), batches, 1)
    site = Recipe((Rule("*", None),), (Rule("final_norm", activation), Rule("*", None)))
    return {**weights.weight_ranges, **calibrate(module, params, site, batches, 2).activation_ranges}


@pytest.mark.long
@pytest.mark.parametrize(
    ("estimator", "shape"), list(zip((*ESTIMATORS, "mse,search=golden"), itertools.cycle(SHAPES), strict=False))
)
def test_ranges_are_those_of_one_device(estimator, shape):
    one, many = ranges(ONE, estimator), ranges(shape, estimator)
    assert one.keys() == many.keys() and len(one) > 10
    for path, r in one.items():
        for end in ("minimum", "maximum"):
            atol = 1e-6 * np.abs([r["minimum"], r["maximum"]]).max()
            np.testing.assert_allclose(many[path][end], r[end], rtol=0, atol=atol, err_msg=f"{path} {end}")


@functools.cache
def by_method(shape, method):
    module, params, batches = placed(shape)
    weight, activation = QuantizationConfig(weight_estimator="minmax").quantizers("w8a8")
    recipe = Recipe((Rule("*", weight),), (Rule("final_norm", activation), Rule("*", None)))
    return calibrate(module, params, recipe, batches, 2, METHODS[method]())


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_methods_make_the_weights_of_one_device(method):
    """All but one in a hundred weights, which lie on an edge between two integers."""
    one, many = (flatten(by_method(shape, method).params) for shape in (ONE, SHAPES[0]))
    for path in one:
        same = np.isclose(one[path], many[path], rtol=1e-5, atol=1e-6 * np.abs(one[path]).max())
        assert same.mean() > 0.99, path


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_those_of_one_device(shape):
    """Of the same ranges: most rows to 1e-5, the others with a value on an edge; an error would show in all rows."""
    module, params, batches = placed(ONE)
    recipe = QuantizationConfig(recipe="paper_opt", weight_estimator="minmax").make_recipe("w8a8", module.config)
    result = calibrate(module, params, recipe, batches, 2)
    mesh = make_mesh(MeshConfig(*shape))
    shardings = param_shardings(mesh, abstract_params(module, batches[0]))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    on_mesh = dataclasses.replace(jax.device_put(result, everywhere), params=jax.device_put(result.params, shardings))
    expected = np.asarray(apply(result, batches[0]))
    found = np.asarray(apply(on_mesh, placed(shape)[2][0]))
    same = np.abs(found - expected).max(axis=-1) < 1e-5 * np.abs(expected).max()
    assert same.mean() >= 0.75
