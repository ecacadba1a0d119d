"""Quantization of attention models: grids, range estimators, recipes, calibration, fake quantization."""

from qtx.quantization.affine import Grid, fake_quantize, make_grid
from qtx.quantization.calibration import Quantized, calibrate
from qtx.quantization.config import QuantizationConfig
from qtx.quantization.estimators import ESTIMATORS
from qtx.quantization.recipe import Quantizer, Recipe, Rule
from qtx.quantization.recipes import RECIPES

__all__ = [
    "ESTIMATORS",
    "RECIPES",
    "Grid",
    "QuantizationConfig",
    "Quantized",
    "Quantizer",
    "Recipe",
    "Rule",
    "calibrate",
    "fake_quantize",
    "make_grid",
]
