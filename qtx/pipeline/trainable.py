"""A run trains its model as it is, with quantizers (quantization-aware training), or with quantization noise."""

from __future__ import annotations

import dataclasses

import flax.linen as nn

from qtx.experiment import Experiment
from qtx.families import FAMILIES
from qtx.foundation.batch import Batch
from qtx.quantization.config import QuantizationConfig
from qtx.quantization.qat.model import QatModel, make_qat_model
from qtx.quantization.qat.noise import NoisyModel, make_noisy_model

Trained = nn.Module | QatModel | NoisyModel
"""The kinds of things that are trained."""


def make_trained(experiment: Experiment, module: nn.Module, batch: Batch) -> Trained:
    """Returns what an experiment trains: `module` itself, or a model that computes it with quantizers or noise.

    Args:
      experiment: the experiment, with the complete config of the model.
      module: the experiment's model.
      batch: gives shapes only.

    Raises:
      QtxError: if the recipe does not fit the model or the training.
    """
    qat, model = experiment.qat, experiment.model
    if qat.scheme:
        return make_qat_model(module, experiment.quantization.make_recipe(qat.scheme, model), batch, qat.learn_ranges)
    if qat.noise:
        recipe = QuantizationConfig(recipe=FAMILIES[experiment.family].recipe).make_recipe(qat.noise, model)
        return make_noisy_model(module, recipe, batch, qat.noise_from, qat.noise_limit)
    return module


def with_module(trained: Trained, module: nn.Module) -> Trained:
    """Returns what `make_trained` returned for another module with the same parameters and sites."""
    return module if isinstance(trained, nn.Module) else dataclasses.replace(trained, module=module)
