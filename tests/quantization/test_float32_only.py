"""Quantized models are computed where grids are exact, whatever they were trained in."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.analysis.capture import FloatingPoint
from qtx.anatomy import read
from qtx.families import FAMILIES, build
from qtx.quantization import QuantizationConfig, calibrate, make_grid
from qtx.quantization.calibration import calibration_step, initial_state, tables_of
from qtx.quantization.integer.convert import convert
from qtx.quantization.methods import METHODS, Problem
from qtx.quantization.methods.inputs import of_inputs
from qtx.quantization.qat.model import make_qat_model
from tests.quantization.test_calibration import apply, captures, make


def in_bfloat16(family, attention="gated_mlp"):
    module, params, batches = make(family, attention)
    return build(dataclasses.replace(module.config, dtype="bfloat16")), params, batches


def recipe_of(module, family, scheme="w8a8", **options):
    return QuantizationConfig(recipe=FAMILIES[family].recipe, **options).make_recipe(scheme, module.config)


def products(jaxpr):
    """All matrix products of a jaxpr, those of inner ones included."""
    found = [equation for equation in jaxpr.eqns if equation.primitive.name == "dot_general"]
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            found += products(inner) if hasattr(inner, "eqns") else []
    return found


def programs(family):
    """Everything whose numbers are compared with a quantized model's, as functions of a batch."""
    module, params, batches = in_bfloat16(family)
    recipe, batch = recipe_of(module, family), batches[0]
    result = calibrate(module, params, recipe, batches, 1)
    problem = Problem(read(module, batch), module, params, recipe, [batch])
    qat = make_qat_model(module, recipe, batch)
    start = qat.start(params, result)
    activations, state = initial_state(problem.anatomy, recipe, problem.ranges, {})
    return {
        "floating point": FloatingPoint(module, params).apply,
        "quantized": result.apply,
        "calibration": lambda batch: calibration_step(
            module, activations, tables_of(problem.plan), params, state, batch
        ),
        "training": lambda batch: qat.apply({"params": start}, batch),
    }, batch


def integers(family):
    module, params, batches = in_bfloat16(family)
    return convert(calibrate(module, params, recipe_of(module, family), batches, 1)), batches[0]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_product_is_float32_at_the_highest_precision(family):
    made, batch = programs(family)
    highest = (jax.lax.Precision.HIGHEST,) * 2
    for name, program in made.items():
        found = products(jax.make_jaxpr(program)(batch).jaxpr)
        assert len(found) >= 8, name
        for equation in found:
            kinds = {variable.aval.dtype.name for variable in equation.invars}
            assert equation.params["precision"] == highest and kinds == {"float32"}, (name, equation)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "narrow"), [("bert", "int8"), ("opt", "bfloat16"), ("vit", "int8")])
def test_every_product_of_integers_is_exact_or_float32_at_the_highest_precision(family, narrow, monkeypatch):
    """Of how many products of bfloat16 float32 holds the sum is tested in `test_integer.py`; what comes out tells that
    it was integers that were multiplied."""
    made, batch = integers(family)
    monkeypatch.setattr("qtx.quantization.integer.products.faster_in_bfloat16", lambda: False)
    expected = made.apply(batch)
    monkeypatch.setattr("qtx.quantization.integer.products.faster_in_bfloat16", lambda: narrow == "bfloat16")
    found = products(jax.make_jaxpr(made.apply)(batch).jaxpr)
    kinds = [{variable.aval.dtype.name for variable in equation.invars} for equation in found]
    assert kinds.count({narrow}) == {"bert": 8, "opt": 7, "vit": 9}[family]  # what OPT's out projection gets is no site
    for equation, of in zip(found, kinds, strict=True):
        assert equation.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2
        assert of in ({"float32"}, {narrow}), equation
        assert equation.outvars[0].aval.dtype == ("int32" if of == {"int8"} else "float32"), equation
    np.testing.assert_array_equal(made.apply(batch), expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS))
def test_calibration_runs_methods_in_float32_at_the_highest_precision(method, monkeypatch):
    """What a method multiplies is what its statistics of the floating-point model are made of."""
    family = "llama" if method == "quarot" else "opt"
    module, params, batches = in_bfloat16(family, "softmax" if method == "quarot" else "gated_mlp")
    seen = []

    def spy(module, *args):
        seen.append((module.config.dtype, jax.config.jax_default_matmul_precision))
        return of_inputs(module, *args)

    monkeypatch.setattr("qtx.quantization.methods.problem.of_inputs", spy)
    calibrate(module, params, recipe_of(module, family), batches, 1, METHODS[method]())
    assert set(seen) <= {("float32", "highest")}
    assert bool(seen) == (method in ("smoothquant", "awq", "gptq"))


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_values_of_a_bfloat16_model_are_on_their_grids(family):
    module, params, batches = in_bfloat16(family)
    result = calibrate(module, params, recipe_of(module, family), batches, 3)
    found = captures(result, batches[0])["intermediates"]
    symmetric = {planned.path: planned.symmetric for planned in result.activation_plan}
    for path, r in result.activation_ranges.items():
        node = found
        for key in path.split("/"):
            node = node[key]
        values = np.asarray(node["__call__"][0], np.float64)
        grid = make_grid(r["minimum"], r["maximum"], r["bits"], symmetric[path])
        scale = np.asarray(grid.scale, np.float64).reshape(-1, *(1,) * (values.ndim - r["bits"].ndim))
        steps = (values if r["bits"].ndim else values[None]) / scale
        assert np.abs(steps - np.round(steps)).max() < 1e-3, path


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_a_bfloat16_model_is_measured_as_its_float32_one(family):
    narrow, params, batches = in_bfloat16(family)
    wide = build(dataclasses.replace(narrow.config, dtype="float32"))
    results = [calibrate(module, params, recipe_of(module, family), batches, 2) for module in (narrow, wide)]
    jax.tree.map(np.testing.assert_array_equal, *(result.activation_ranges for result in results))
    np.testing.assert_array_equal(*(apply(result, batches[0]) for result in results))
    in_floating_point = FloatingPoint(narrow, params).apply(batches[0])
    np.testing.assert_array_equal(in_floating_point, wide.apply({"params": params}, batches[0]))


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_heads_of_bfloat16_models_add_up_in_float32(family):
    """The logits are the products of the head's bfloat16 operands, of which none was rounded on the way."""
    module, params, batches = in_bfloat16(family)
    params = jax.tree.map(lambda x: x + 0.01, params)  # biases that are not 0
    logits, variables = module.apply(
        {"params": params}, batches[0], capture_intermediates=True, mutable=["intermediates"]
    )
    found, head = variables["intermediates"], params.get("head", {})
    site = found["head"]["norm"] if "head" in found and "norm" in found["head"] else found["final_norm"]
    x = np.asarray(site["__call__"][0])
    assert x.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    if family == "vit":
        x, table, bias = x[:, 0], head["logits"]["kernel"], head["logits"]["bias"]
    else:
        table, bias = params["embeddings"]["words"]["embedding"].T.astype(jnp.bfloat16), head.get("bias", 0.0)
    expected = x.astype(np.float64) @ np.asarray(table).astype(np.float64) + np.asarray(bias, np.float64)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
