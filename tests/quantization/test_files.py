"""Saved ranges: what comes back is what was calibrated, by whatever method, and nothing else is taken for it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from safetensors import safe_open

from qtx.families import FAMILIES
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import sealed_safetensors, write_whole
from qtx.pipeline.quantize import method_of, with_ranges
from qtx.pipeline.run import TrainedRun
from qtx.quantization import QuantizationConfig, calibrate
from qtx.quantization.files import load_ranges, read_ranges, save_ranges
from qtx.quantization.methods import METHODS
from qtx.quantization.qat.model import make_qat_model
from tests.quantization.test_calibration import apply, make


@functools.cache
def model(family):
    return make(family, "gated_linear" if family == "opt" else "softmax")


def config_of(family, method, **options):
    options = {"weight_estimator": "minmax", **options}
    return QuantizationConfig(recipe=FAMILIES[family].recipe, method=method, **options)


def calibrated(family="opt", method="static", scheme="w4a8", **options):
    module, params, batches = model(family)
    config = config_of(family, method, **options)
    recipe = config.make_recipe(scheme, module.config)
    return calibrate(module, params, recipe, batches, 2, config.make_method())


def load(file, family="opt", method="static", scheme="w4a8", params=None, **options):
    module, own, batches = model(family)
    recipe = config_of(family, method, **options).make_recipe(scheme, module.config)
    return load_ranges(module, own if params is None else params, recipe, batches[0], read_ranges(file))


# Every method on a family in turn, and one that has bases and one that has none with every granularity, which decides
# the form of a range; estimators do not.
GRANULARITIES = [
    *(("weight_granularity", name) for name in ("channel", "input_group,size=8")),
    *(("activation_granularity", name) for name in ("group", "token")),
]
CASES = {f"{m} {family}": (family, m, {}) for m, family in zip(METHODS, itertools.cycle(FAMILIES), strict=False)}
CASES = {name: case for name, case in CASES.items() if case[1] != "quarot"}  # which rotates decoders after Llama alone
CASES |= {method: ("llama", method, {}) for method in ("quarot", "quarot + gptq", "per_token + quarot")}
CASES |= {
    f"{method} {name}={value}": ("opt", method, {name: value})
    for method in ("static", "hadamard")
    for name, value in GRANULARITIES
}


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_saved_ranges_give_the_same_model_bit_for_bit(case, tmp_path):
    family, method, options = CASES[case]
    _, params, batches = model(family)
    quantized, file = calibrated(family, method, **options), tmp_path / "ranges" / "w4a8.safetensors"
    save_ranges(quantized, params, file, method, "w4a8")
    loaded = load(file, family, method, **options)
    jax.tree.map(np.testing.assert_array_equal, loaded, quantized)
    np.testing.assert_array_equal(apply(loaded, batches[2]), apply(quantized, batches[2]))
    assert [path.name for path in file.parent.iterdir()] == ["w4a8.safetensors"]
    assert (read_ranges(file).method, read_ranges(file).scheme) == (method, "w4a8")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gptq,bases=smoothquant", "hadamard + gptq", "smoothquant + hadamard + gptq"])
def test_rounded_weights_in_a_basis_come_back(method, tmp_path):
    _, params, _ = model("opt")
    file = tmp_path / "w4a8.safetensors"
    quantized = calibrated(method=method)
    save_ranges(quantized, params, file, method, "w4a8")
    jax.tree.map(np.testing.assert_array_equal, load(file, method=method), quantized)


@pytest.mark.slow
def test_gptq_rounds_otherwise_and_its_integers_are_bytes(tmp_path):
    """Else the test above would not see whether they are kept."""
    _, params, _ = model("opt")
    for method in ("static", "gptq"):
        save_ranges(calibrated(method=method), params, tmp_path / method, method, "w4a8")
    nearest, gptq = (read_ranges(tmp_path / method).arrays for method in ("static", "gptq"))
    assert not any(name.startswith("integers/") for name in nearest)
    kernel = gptq["integers/layers/mlp/out/kernel"]
    assert kernel.dtype == np.int8 and kernel.shape == params["layers"]["mlp"]["out"]["kernel"].shape
    assert kernel.min() >= -8 and kernel.max() <= 7


def run_of(method, schemes, trained=False):
    """As `qtx quantize` prepares it: a run, trained under w4a8 or not, and its parameters."""
    module, params, batches = model("opt")
    config = config_of("opt", method, schemes=schemes)
    qat = make_qat_model(module, config.make_recipe("w4a8", module.config), batches[0]) if trained else None
    experiment = SimpleNamespace(quantization=config, qat=SimpleNamespace(scheme="w4a8"))
    data = SimpleNamespace(evaluation=lambda _: batches)
    assembled: Any = SimpleNamespace(module=module, experiment=experiment, data=data, qat=qat)
    return TrainedRun(assembled, qat.start(params, calibrated()) if qat else params, Path(), 0)


@pytest.mark.slow
def test_learned_ranges_come_back(tmp_path):
    """Of a run that was trained under a scheme: no estimator finds them again."""
    run = run_of("gptq", ("w3a8", "w4a8"), trained=True)
    assembled, params = run.assembled, run.params
    params["ranges"] = jax.tree.map(lambda x: 0.9 * x, params["ranges"])
    quantized, file = assembled.qat.quantized(params), tmp_path / "w4a8.safetensors"
    save_ranges(quantized, params["model"], file, method_of(assembled, "w4a8"), "w4a8")
    assert read_ranges(file).method == "qat"
    (scheme, loaded), *more = with_ranges(run, file).items()
    assert scheme == "w4a8" and not more
    jax.tree.map(np.testing.assert_array_equal, loaded, quantized)
    # The same parameters in a run that was not trained under the scheme: it would calibrate.
    with pytest.raises(QtxError, match="method qat, and the config says gptq: calibrate anew"):
        with_ranges(dataclasses.replace(run_of("gptq", ("w4a8",)), params=params["model"]), file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "schemes", "says"),
    [
        ("gptq", ("w8a8", "w4a8"), None),
        ("static", ("w4a8",), "method gptq, and the config says static: give --method=gptq, or calibrate anew"),
        ("gptq", ("w8a8", "w8a4"), "ranges of w4a8, and the config says w8a8, w8a4: give --scheme=w4a8"),
    ],
)
def test_config_and_file_must_agree(whole, method, schemes, says):
    run = run_of(method, schemes)
    if says is None:
        assert with_ranges(run, whole).keys() == {"w4a8"}
    else:
        with pytest.raises(QtxError, match=says):
            with_ranges(run, whole)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    file = tmp_path_factory.mktemp("ranges") / "w4a8.safetensors"
    save_ranges(calibrated(method="gptq"), model("opt")[1], file, "gptq", "w4a8")
    return file


def edited(change):
    """What damages a file and makes its checksum anew, as somebody would on purpose."""

    def damage(file):
        saved = read_ranges(file)
        values = {name: getattr(saved, name) for name in ("method", "scheme", "plan", "parameters")}
        arrays = {name: x.copy() for name, x in saved.arrays.items()}
        change(arrays, values)
        write_whole({file: sealed_safetensors(arrays, values)})

    return damage


def truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


def without_checksum(file):
    from safetensors.numpy import load_file, save_file

    save_file(load_file(file), file)


DAMAGES = {
    "absent": (lambda file: file.unlink(), "there is no file"),
    "truncated": (truncate, "not a whole safetensors file"),
    "of an older version": (without_checksum, "has no checksum"),
    "without a method": (edited(lambda _, v: v.pop("method")), "is not a file of ranges"),
    "without a plan": (edited(lambda _, v: v.update(plan=["weights"])), "does not say what of"),
    "with half a plan": (edited(lambda _, v: v["plan"].pop("weights")), "does not say how each tensor is quantized"),
    "site missing": (
        edited(lambda a, _: a.pop("activations/layers/mlp/out/maximum")),
        "has no activations/layers/mlp/out/max",
    ),
    "site missing in words": (
        edited(lambda _, v: v["plan"]["activations"].pop("final_norm")),
        "has no activations/final_norm",
    ),
    "site too many": (
        edited(lambda a, _: a.update({"weights/gate/bits": np.ones(1)})),
        "has weights/gate/bits, which this",
    ),
    "another depth": (
        edited(lambda a, _: a.update({"activations/layers/mlp/out/maximum": np.ones(3, np.float32)})),
        r"shape \(3,\), expected \(2,\)",
    ),
    "another type": (
        edited(lambda a, _: a.update({"activations/layers/mlp/out/maximum": np.ones(2, np.int32)})),
        "expected .* of float32",
    ),
    "a basis of another width": (
        edited(lambda a, _: a.update({"activations/layers/mlp_norm/smooth": np.ones((2, 9), np.float32)})),
        r"shape \(2, 9\), expected \(2, 16\)",
    ),
    "integers beyond the grid": (
        edited(lambda a, _: a["integers/layers/mlp/out/kernel"].fill(100)),
        "leave the grid",
    ),
    "not finite": (
        edited(lambda a, _: a["activations/final_norm/maximum"].fill(np.nan)),
        "activation range of 'final_norm' is not finite",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_ranges_are_refused(whole, tmp_path, name):
    file = tmp_path / "w4a8.safetensors"
    file.write_bytes(whole.read_bytes())
    damage, says = DAMAGES[name]
    damage(file)
    with pytest.raises(QtxError, match=says):
        load(file, method="gptq")


@pytest.mark.slow
def test_ranges_of_an_earlier_version_are_read(whole, tmp_path):
    """Their words had another option, and their ranges counted padding: they are what they were."""
    file = tmp_path / "w4a8.safetensors"
    file.write_bytes(whole.read_bytes())

    def earlier(_, values):
        for plan in values["plan"].values():
            plan.update({path: words.replace("count_padding", "ignore_masked") for path, words in plan.items()})

    edited(earlier)(file)
    assert any("ignore_masked=False" in words for words in read_ranges(file).plan["activations"].values())
    load(file, method="gptq")


@pytest.mark.slow
def test_ranges_of_another_scheme_or_way_of_estimating_are_refused(whole):
    with pytest.raises(QtxError, match="the bits of weights/.* are 4, expected 3"):
        load(whole, method="gptq", scheme="w3a8")
    with pytest.raises(QtxError, match=r"weights/.* was quantized by .*MinMax\(\).* config says .*Mse\("):
        load(whole, method="gptq", weight_estimator="mse")


@pytest.mark.slow
def test_ranges_of_another_checkpoint_are_refused(whole):
    params = jax.tree.map(lambda x: x, model("opt")[1])
    params["final_norm"]["bias"] = params["final_norm"]["bias"].at[3].add(1e-6)
    with pytest.raises(QtxError, match="other parameters.*--checkpoint"):
        load(whole, method="gptq", params=params)


@pytest.mark.slow
def test_the_header_is_text(whole):
    """Any reader of safetensors can tell what the file is of."""
    with safe_open(whole, framework="np") as file:
        assert '"method": "gptq", "scheme": "w4a8"' in file.metadata()["qtx"]
