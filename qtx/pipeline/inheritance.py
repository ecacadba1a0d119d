"""A config that has a start inherits the model and the data of the start."""

from __future__ import annotations

from collections.abc import Container

from ml_collections import ConfigDict

from qtx.attention import AttentionConfig
from qtx.data import OBJECTIVES
from qtx.data.config import PIXELS, SOURCE
from qtx.experiment import Experiment, default, read
from qtx.families import FAMILIES
from qtx.foundation.config import flattened, read_section, section
from qtx.foundation.errors import QtxError
from qtx.pipeline.lineage import HEAD, config_of
from qtx.pipeline.warmup import grown_from
from qtx.training.run_folder import TOKENIZER_OPTIONS

OF_OBJECTIVE = ("mask_probability", "min_length")
"""Data options that not every objective takes."""


def inheriting(config: ConfigDict, named: Container[str] = ()) -> ConfigDict:
    """Completes a config that has a start by the model and the data of the start.

    An option of the section `model` that is neither named nor other than the family's default becomes the start's; a
    head becomes the one that the objective trains. The attention is inherited as one option; another attention is made
    the same function at step 0 (see `grown_from`). The data become the start's if no source is named (see
    `_inherit_data`); how the start saw images is inherited whatever images there are now.

    Args:
      config: an experiment's config; without a start it is returned as it is.
      named: dotted keys that the user gave, e.g. `"model.attention.gate"`.

    Raises:
      QtxError: if the start is no run's folder, or of another family.
    """
    if not config.start:
        return config
    there = config_of(config.start)
    if there.family != config.family:
        raise QtxError(
            f"config.start={config.start} is a run of the {there.family} family, but config.family is "
            f"{config.family!r}: choose a config of its family"
        )
    _inherit_data(config, there, named)
    start, usual = section(there.model), default(config.family).model
    if config.objective in OBJECTIVES and not OBJECTIVES[config.objective].taught:
        start = {name: value for name, value in start.items() if name != "num_classes"}  # told by the data
    if trained := FAMILIES[config.family].heads.get(config.objective):
        start = {**start, HEAD: trained}
    for name, value in start.items():
        key = f"model.{name}"
        options = [key, *(f"{key}.{option}" for option in value)] if name == "attention" else [key]
        if not any(option in named for option in options) and config.model[name] == usual[name]:
            config.model[name] = value
    _inherit_unset(config, there, named)
    experiment, wanted = read(config), read_section(AttentionConfig, config.model.attention, "config.model.attention")
    config.model.attention = section(grown_from(there, experiment, wanted))
    return config


def _inherit_data(config: ConfigDict, there: Experiment, named: Container[str]) -> None:
    """Makes a config's data those of its start, unless a source is named or not the family's default, or the start's
    data do not serve the objective. A named option stays, and so does one that is not at its default, if the start's
    source takes it."""
    usual, source = default(config.family).data, there.data.source
    if "data.source" in named or config.data.source != usual.source:
        return
    if config.objective not in OBJECTIVES or not source.serves(OBJECTIVES[config.objective]):
        return
    same_objective, taken = config.objective == there.objective, ("source", *SOURCE.options(there.data.name))
    for option, value in section(there.data).items():
        # The tokenizer is not inherited as an option: the start's own file is used.
        own = option in TOKENIZER_OPTIONS or (option in OF_OBJECTIVE and option in taken and not same_objective)
        if not own and f"data.{option}" not in named and (config.data[option] == usual[option] or option not in taken):
            config.data[option] = value


def _inherit_unset(config: ConfigDict, there: Experiment, named: Container[str]) -> None:
    """Takes over the start's pixel options for images of any source, and its prompt for texts of any source that are
    compared with a teacher's, where neither the user nor the config sets any."""
    if config.data.source not in SOURCE.registry:
        return  # reading the config refuses an unknown source
    kept, taken = flattened(there.data), SOURCE.options(config.data.source)
    taught = config.objective in OBJECTIVES and OBJECTIVES[config.objective].taught
    for option in (*PIXELS, *(["prompt"] if taught else [])):
        if option in taken and config.data[option] is None and f"data.{option}" not in named:
            config.data[option] = kept[option]
