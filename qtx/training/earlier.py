"""This module completes the configs that versions from 27 November 2026 on recorded, by the options added since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtx.training.penalties import complete_text, make_penalties

# Family -> section -> the options added since, with the values that runs had, if not None.
ADDED: dict[str, dict[str, dict[str, Any]]] = {
    "bert": {
        "model": {
            **{"activation": "gelu", "pooler_activation": "tanh", "shared_layers": False, "relative_buckets": 0},
            **{"pooling": "mean", "normalize": False, "modules": "", "include_prompt": True},
        }
    },
    "opt": {"model": {"activation": "relu"}},
    "vit": {"model": {"activation": "gelu", "head": "classification"}, "data": {"interpolation": "bicubic"}},
}

# The same, of every family.
ADDED_TO_ALL: dict[str, dict[str, Any]] = {
    "relief": {"prefix": [], "units": [], "sinks": False},
    "qat": {"noise_from": 0},
}


def of_this_version(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a recorded config as this version would have recorded it. The `length` that `alpha` is relative to was
    not recorded: it is that of the run's texts, or of its images' patches and class token. Penalties get the options
    added since, at their defaults."""
    completed = dict(config)
    added = {**ADDED_TO_ALL, **ADDED.get(str(config["family"]), {})} if "family" in config else {}
    for section, options in added.items():
        there = config.get(section, {})
        completed[section] = there | {name: value for name, value in options.items() if name not in there}
    model = completed.get("model", {})
    attention = model.get("attention", {})
    if attention.get("alpha") is not None and "length" not in attention:
        length = config.get("data", {}).get("sequence_length")
        if model.get("image_size") is not None:
            length = (model["image_size"] // model["patch_size"]) ** 2 + 1
        completed["model"] = {**model, "attention": {**attention, "length": length}}
    training = completed.get("training", {})
    if training.get("penalties"):
        penalties = [complete_text(penalty) for penalty in make_penalties(training["penalties"]).values()]
        completed["training"] = {**training, "penalties": penalties}
    return completed
