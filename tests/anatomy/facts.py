"""The facts about a model that quantization, training and analysis act upon, by today's functions."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

from qtx.anatomy import read
from qtx.families import FAMILIES, family_of
from qtx.quantization.estimators import MinMax
from qtx.quantization.methods import METHODS, Problem
from qtx.quantization.plan import flatten, quantizers_of, sites_beside, weights_of
from qtx.quantization.recipe import Quantizer, Recipe
from qtx.quantization.recipes import RECIPES
from qtx.training.optimizer import decay_mask
from tests.anatomy.models import make

PAPER = {"Bert": "paper_bert", "Opt": "paper_opt", "Vit": "paper_vit"}


def facts(name: str) -> dict:
    """Every fact about the model of a name, as JSON holds it."""
    module, params, batch = make(name)
    masks = {flag: flatten(decay_mask(read(module, batch).parameters, flag)(params)) for flag in (False, True)}
    sites = sites_beside(module, params, batch, weights_of(params))
    problem = Problem(read(module, batch), module, params, Recipe((), ()), [batch])
    found = {
        "decay": sorted(path for path, decays in masks[False].items() if decays),
        "decay with scales": sorted(path for path, decays in masks[True].items() if decays),
        "stacked parameters": sorted(path for path, one in read(module, batch).parameters.items() if one.stack),
        "sites": {path: [*shape.leading, shape.features] for path, shape in sorted(sites.items())},
        "bases": {
            method: {path: {kind: list(x.shape) for kind, x in basis.items()} for path, basis in sorted(bases.items())}
            for method in ("smoothquant", "hadamard")
            for bases in [METHODS[method]().find_bases(problem)]
        },
        "recipes": {recipe: _rules(recipe, module, params, batch) for recipe in _recipes(module)},
    }
    if type(module.config) in {family.config for family in FAMILIES.values()}:
        measured = family_of(module.config).measured(module.config)
        found["measured"] = [measured.infinity_norm, dict(measured.kurtosis), dict(measured.norms_only)]
    return found


def _recipes(module) -> list[str]:
    paper = PAPER.get(type(module).__name__)
    return ["strict", *([paper] if paper else [])]


def _rules(recipe: str, module, params, batch) -> dict:
    """How a recipe quantizes weights and sites of a model: words to paths."""
    weight, activation = Quantizer(8, True, MinMax()), Quantizer(8, False, MinMax())
    quantizers = quantizers_of(module, params, RECIPES[recipe](module.config, weight, activation), batch)
    found = {}
    for kind, by_path in zip(("weights", "activations"), quantizers, strict=True):
        grouped = defaultdict(list)
        for path, quantizer in sorted(by_path.items()):
            values = {f.name: getattr(quantizer, f.name) for f in dataclasses.fields(quantizer)}
            grouped[", ".join(f"{key}={value!r}" for key, value in values.items())].append(path)
        found[kind] = dict(grouped)
    return found
