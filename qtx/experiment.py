"""This module defines an experiment, with one config section for every part of qtx, and reads and checks the sections.

A config file returns `default(family, variant)` with its own values on top; `read` turns the result (after the command
line's overrides) into an `Experiment` of frozen, validated options, which is all that the rest of qtx sees.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from qtx.attention import Sink, attention_variant
from qtx.data import OBJECTIVES, SOURCES, DataConfig
from qtx.data.images import ImageOptions
from qtx.data.text import TokenizedOptions
from qtx.families import FAMILIES
from qtx.foundation.config import flattened, read_section, section
from qtx.foundation.errors import QtxError, lookup, one_line, unknown
from qtx.foundation.run_file import run_file
from qtx.quantization import QuantizationConfig
from qtx.quantization.qat.config import QatConfig
from qtx.quantization.recipes import RECIPES
from qtx.training import MeshConfig, TrainingConfig
from qtx.training.relief import ReliefConfig
from qtx.training.run_folder import BESIDE_OPTIONS, RunFolder


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """A `CompareConfig` says what `qtx compare` trains: every variant with every seed.

    Attributes:
      variants: attention variants as `attention_variant` reads them, e.g. `"clipped_softmax,alpha=4"`.
      seeds: each variant is trained once per seed; the seed sets the initial weights, the dropout and the batches.
    """

    variants: tuple[str, ...] = ("softmax", "clipped_softmax", "gated_linear", "none")
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self):
        for name, kind, example in (("variants", str, "('softmax', 'gated_linear')"), ("seeds", int, "(0, 1, 2)")):
            values = getattr(self, name)
            if not values or not all(type(value) is kind for value in values):
                raise QtxError(f"{name} is {values!r}: expected at least one {kind.__name__}, e.g. {example}")
            if len(set(values)) < len(values):
                raise QtxError(f"{name} is {values!r}: each may be named once")
        for variant in self.variants:
            attention_variant(variant)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The validated options of one experiment.

    Attributes:
      family, objective: names in `FAMILIES` and `OBJECTIVES`.
      name: the experiment's name, for people.
      seed: the seed of everything random.
      start: the folder of the run whose newest parameters training starts from; empty: from random ones.
      model: the model's config, of the config class of `family`.
      data, training, mesh, quantization, qat, compare, relief: the sections for these parts of qtx.
    """

    family: str
    objective: str
    name: str
    seed: int
    start: str
    model: Any
    data: DataConfig
    training: TrainingConfig
    mesh: MeshConfig
    quantization: QuantizationConfig
    qat: QatConfig
    compare: CompareConfig
    relief: ReliefConfig


SECTIONS = {
    "data": DataConfig,
    "training": TrainingConfig,
    "mesh": MeshConfig,
    "quantization": QuantizationConfig,
    "qat": QatConfig,
    "compare": CompareConfig,
    "relief": ReliefConfig,
}


def default(family: str, variant: str = "softmax") -> ConfigDict:
    """Returns the default experiment of a model family, as a locked `ConfigDict` for a config file to change.

    Args:
      family: a name in `qtx.families.FAMILIES`, e.g. bert, opt or vit.
      variant: the attention, as `attention_variant` reads it.
    """
    chosen = lookup(FAMILIES, "model family", family)
    config = ConfigDict()
    config.family = family
    config.objective = chosen.objectives[0]
    config.name = family
    config.seed = 0
    config.start = ""
    config.model = section(dataclasses.replace(chosen.config(), attention=attention_variant(variant)))
    sections = {name: cls for name, cls in SECTIONS.items() if name not in ("data", "quantization")}
    config.data = section(DataConfig(SOURCES[OBJECTIVES[config.objective].built_in_sources[chosen.config.reads]]()))
    config.quantization = section(QuantizationConfig(recipe=chosen.recipe))
    for name, cls in sections.items():
        config[name] = section(cls())
    return config.lock()


def get_config_beside(file: str, name: str) -> Callable[[str], ConfigDict]:
    """Returns another config file's `get_config`, from the same folder, for a config that changes a few of its values.

    Args:
      file: the changing config file's own `__file__`.
      name: the other file's name, e.g. `"opt_125m.py"`.
    """
    return run_file(Path(file).with_name(name))["get_config"]


def read(config: ConfigDict) -> Experiment:
    """Returns the experiment that a config describes, after checking the config.

    Raises:
      QtxError: naming the first key that is missing, unknown, of the wrong type, or refused by its part of qtx.
    """
    known = {"family": str, "objective": str, "name": str, "seed": int, "start": str, "model": ConfigDict}
    known.update(dict.fromkeys(SECTIONS, ConfigDict))
    values = dict(config)
    for name in values:
        if name not in known:
            raise unknown("key in config:", name, known)
    for name, kind in known.items():
        if name not in values:
            raise QtxError(f"config.{name} is missing: start the config file from qtx.experiment.default(family)")
        if not isinstance(values[name], kind) or isinstance(values[name], bool):
            raise QtxError(f"config.{name} is {values[name]!r}: expected {kind.__name__}")
    family = lookup(FAMILIES, "model family", values["family"])
    if values["objective"] not in family.objectives:
        expected = " or ".join(map(repr, family.objectives))
        raise QtxError(
            f"config.objective is {values['objective']!r}: the {values['family']} family trains on {expected}"
        )
    if values["seed"] < 0:
        raise QtxError(f"config.seed is {values['seed']}: expected 0 or more")
    values["model"] = read_section(family.config, values["model"], "config.model")
    head = family.heads.get(values["objective"])
    if head is not None and values["model"].head != head:
        raise QtxError(
            f"config.model.head is {values['model'].head!r}, but objective {values['objective']!r} trains the head "
            f"{head!r}: choose another config.objective, or, to train such a head, set config.model.head to it"
        )
    for name, cls in SECTIONS.items():
        values[name] = read_section(cls, values[name], f"config.{name}")
    objective, reads = OBJECTIVES[values["objective"]], values["model"].reads
    others = ImageOptions if reads == "tokens" else TokenizedOptions
    if objective.taught and isinstance(values["data"].source, others):  # a taught objective accepts both kinds
        raise QtxError(
            f"config.data.source is {values['data'].name!r}, but the {values['family']} family reads {reads}: choose "
            f"a source of these, e.g. {objective.built_in_sources[reads]!r}"
        )
    experiment = resolved(Experiment(**values))
    if experiment.qat.scheme and not experiment.start:
        raise QtxError(
            f"config.qat.scheme is {experiment.qat.scheme!r}, but config.start is empty: quantization-aware training "
            "starts from a trained run; give its folder, e.g. --config.start=runs/x"
        )
    if experiment.relief != ReliefConfig() and not experiment.start:
        raise QtxError("config.relief changes a trained model, but config.start is empty: give a run's folder")
    prefix = len(experiment.relief.prefix)
    if prefix and experiment.model.prefix != prefix:
        raise QtxError(
            f"config.relief.prefix has {prefix} tokens, but config.model.prefix is {experiment.model.prefix}: set it "
            f"to {prefix}, in a family that has the option (llama)"
        )
    if experiment.relief.sinks and not isinstance(experiment.model.attention.normalizer, Sink):
        raise QtxError(
            "config.relief.sinks starts learned sinks, and config.model.attention has none: set the attention to sink"
        )
    training = experiment.training
    objective.loss.check_whole(training.accumulation_steps, bool(experiment.qat.noise))
    rows = training.batch_size // training.accumulation_steps
    if experiment.qat.noise and rows % 2:
        raise QtxError(
            f"config.qat.noise is {experiment.qat.noise!r}, which half of every batch is computed with, but a batch is "
            f"of {rows} examples: make config.training.batch_size / accumulation_steps even"
        )
    if objective.taught and training.label_smoothing:
        raise QtxError(
            f"config.training.label_smoothing is {training.label_smoothing}, but objective {experiment.objective!r} "
            "learns from a teacher's outputs, not from labels: set it to 0.0"
        )
    if not objective.taught and training.distill_layers != TrainingConfig().distill_layers:
        raise QtxError(
            f"config.training.distill_layers is {training.distill_layers!r}, but objective {experiment.objective!r} "
            "has no teacher: leave it out, or set config.objective to 'distill'"
        )
    check_best_metric(experiment)
    check_warmup(experiment)
    return experiment


def check_best_metric(experiment: Experiment) -> None:
    """Raises QtxError if checkpoints would be compared by a metric that their evaluation does not measure."""
    objective, best = OBJECTIVES[experiment.objective], experiment.training.best_metric
    measured = ["loss", objective.metric, *objective.also_measured]
    if getattr(experiment.model, "head", None) != "none":
        measured = [name for name in measured if name != "centred_fidelity"]
    if best not in measured:
        raise QtxError(
            f"config.training.best_metric is {best!r}, which objective {experiment.objective!r} does not measure: "
            f"expected one of {', '.join(measured)}"
        )


def check_warmup(experiment: Experiment) -> None:
    """Raises QtxError if attention would still be annealing when training ends: it would be measured as it never was in
    training. Quantization-aware training is exempt."""
    normalizer, steps = experiment.model.attention.normalizer, experiment.training.steps
    warmup = normalizer.warmup_steps
    if warmup > steps and not experiment.qat.scheme:
        raise QtxError(
            f"config.model.attention.{normalizer.warmup} is {warmup}: expected at most config.training.steps {steps}; "
            "lower it, or train longer"
        )


def resolved(experiment: Experiment) -> Experiment:
    """Returns the experiment with every option at its value, except those that only the data tell. So an experiment
    stays the same when a default changes later, or is given explicitly."""
    model, data = experiment.model.resolved(), experiment.data.resolved(experiment.objective)
    length = getattr(data.source, "sequence_length", None)
    if length is not None:
        model = model.trained_at(length)
    return dataclasses.replace(experiment, model=model, data=data, training=experiment.training.resolved())


def record(experiment: Experiment) -> dict[str, Any]:
    """Returns every option of a resolved experiment in JSON types, which a run's folder keeps in its `config.json`."""
    return json.loads(json.dumps(flattened(experiment)))


def from_record(values: dict[str, Any], where: str) -> ConfigDict:
    """Returns the config that `record` recorded, in the form of `default`, without what a run's folder records beside
    the options; `where` names the record in messages."""
    try:
        config = default(values["family"])
        config.update({name: value for name, value in values.items() if name not in BESIDE_OPTIONS})
    except QtxError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        told = f"{type(error).__name__}: {one_line(error)[:120]}"
        raise QtxError(
            f"{where} is not the config of an experiment of this version of qtx ({told}); if its config file registers "
            "parts of its own, give what `qtx train` was given: --config=FILE and its flags"
        ) from None
    return config


def recorded(workdir: Path) -> ConfigDict:
    """Returns the config that a run recorded in its folder, without running anything that the folder names.

    Raises:
      QtxError: if the folder holds no run, or its record cannot be read.
    """
    folder = RunFolder(workdir)
    config = from_record(folder.read_config(), str(folder.config))
    if config.quantization.recipe not in RECIPES:
        config.quantization.recipe = str(folder.recipe)
    return config
