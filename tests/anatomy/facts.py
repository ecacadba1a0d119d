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
    anatomy = read(module, batch)
    masks = {flag: flatten(decay_mask(anatomy.parameters, flag)(params)) for flag in (False, True)}
    sites = sites_beside(anatomy, weights_of(anatomy))
    problem = Problem(anatomy, module, params, Recipe((), ()), [batch])
    found = {
        "decay": sorted(path for path, decays in masks[False].items() if decays),
        "decay with scales": sorted(path for path, decays in masks[True].items() if decays),
        "stacked parameters": sorted(path for path, one in anatomy.parameters.items() if one.stack),
        "sites": {path: [*shape.leading, shape.features] for path, shape in sorted(sites.items())},
        "bases": {
            method: {path: {kind: list(x.shape) for kind, x in basis.items()} for path, basis in sorted(bases.items())}
            for method in ("smoothquant", "hadamard")
            for bases in [METHODS[method]().find_bases(problem)]
        },
        "recipes": {recipe: _rules(recipe, module, anatomy) for recipe in _recipes(module)},
    }
    if type(module.config) in {family.config for family in FAMILIES.values()}:
        measured = family_of(module.config).measured(module.config)
        found["measured"] = [measured.infinity_norm, dict(measured.kurtosis), dict(measured.norms_only)]
    return found


def _recipes(module) -> list[str]:
    paper = PAPER.get(type(module).__name__)
    return ["strict", *([paper] if paper else [])]


def _rules(recipe: str, module, anatomy) -> dict:
    """How a recipe quantizes weights and sites of a model: words to paths."""
    weight, activation = Quantizer(8, True, MinMax()), Quantizer(8, False, MinMax())
    quantizers = quantizers_of(anatomy, RECIPES[recipe](module.config, weight, activation))
    found = {}
    for kind, by_path in zip(("weights", "activations"), quantizers, strict=True):
        grouped = defaultdict(list)
        for path, quantizer in sorted(by_path.items()):
            values = {f.name: getattr(quantizer, f.name) for f in dataclasses.fields(quantizer)}
            grouped[", ".join(f"{key}={value!r}" for key, value in values.items())].append(path)
        found[kind] = dict(grouped)
    return found
