"""Post-training quantization of a model that is really ill: at 8 bits it breaks, and some methods save it."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from qtx.quantization import QuantizationConfig, calibrate
from qtx.quantization.methods import METHODS, make_method
from qtx.sites import capture
from tests.patient import DIMENSION

from .test_calibration import difference

# The relative error of the last hidden states at W8A8, by the paper's recipe, lies between these. On one static range
# the outliers make steps as large as nearly all values. A rotation spreads them over all dimensions; a range per token
# leaves their harm to the token that has them, but not that of the weights' outliers. Smoothing does not reach the
# residual sums of a post-LN model, and GPTQ rounds weights alone.
BROKEN, BETTER, SAVED = (0.5, 0.6), (0.2, 0.35), (0.05, 0.12)
W8A8 = {"static": BROKEN, "smoothquant": BROKEN, "gptq": BROKEN, "dynamic": BROKEN}
W8A8 |= {"per_token": BETTER, "hadamard": SAVED}


def error(patient, method, scheme):
    recipe = QuantizationConfig(recipe="paper_bert", weight_estimator="minmax").make_recipe(
        scheme, patient.module.config
    )
    result = calibrate(patient.module, patient.params, recipe, [patient.calibration], 1, make_method(method))
    return difference(result, patient.params, patient.held_out)


def test_its_outliers_are_those_of_the_whole_model(patient):
    """192 and 91 in the first two layers of the published one, on English text of 128 tokens."""
    sites = jax.jit(functools.partial(capture, patient.module.apply, ("layers/mlp/out",)))
    x = np.abs(sites({"params": patient.params}, patient.held_out)[1]["layers/mlp/out"])
    np.testing.assert_allclose(x.max(axis=(2, 3)), [[192] * 4, [91] * 4], rtol=0.02)
    assert (x[:, :, 0].argmax(-1) == DIMENSION).all()
    assert (np.quantile(x, 0.999, axis=(1, 2, 3)) < 1.5).all()


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_what_8_bits_cost_it(patient, method):
    least, most = W8A8[method]
    assert least < error(patient, method, "w8a8") < most


@pytest.mark.slow
def test_16_bits_cost_it_next_to_nothing(patient):
    assert error(patient, "static", "w16a16") < 0.02
