"""Rules that a run has recorded are read back as they were: those by parts, and those of earlier versions."""

from __future__ import annotations

import json

from qtx.foundation.storage import sealed_json
from qtx.models import BertConfig
from qtx.parts import Part
from qtx.quantization import Quantizer, Recipe, Rule
from qtx.quantization.estimators import Mse, RunningMinMax
from qtx.quantization.recipes.recorded import as_data, recorded_recipe

WEIGHT, ACTIVATION = Quantizer(4, True, Mse()), Quantizer(8, False, RunningMinMax())
RECIPE = Recipe(
    (Rule(Part.HEAD, None, optional=True), Rule("*bias", None), Rule("*", WEIGHT)),
    (Rule(Part.NORM, ACTIVATION), Rule("*", None)),
)


def read(tmp_path, entry):
    (tmp_path / "recipe.json").write_bytes(sealed_json({"w4a8": entry}))
    return recorded_recipe(tmp_path / "recipe.json")(BertConfig(), WEIGHT, ACTIVATION)


def test_rules_by_part_and_by_path_are_read_as_they_were(tmp_path):
    assert read(tmp_path, as_data(RECIPE, WEIGHT, ACTIVATION)) == RECIPE


def test_an_option_that_earlier_versions_had_is_left_out(tmp_path):
    """Earlier versions recorded `ignore_masked`, which is the default now."""
    now = json.dumps(as_data(RECIPE, WEIGHT, ACTIVATION))
    assert read(tmp_path, json.loads(now.replace('"bits"', '"ignore_masked": true, "bits"'))) == RECIPE
