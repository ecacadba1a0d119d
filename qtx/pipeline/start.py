"""This module finds the parameters that a run starts from, another run's or those imported into its own folder, with
calibrated ranges for quantization-aware training, and the teacher of a run that learns from its start."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from qtx.attention import AttentionConfig, attention_text
from qtx.attention.conversion import converted_attention, without_warmup
from qtx.data import OBJECTIVES, Data
from qtx.data.config import PIXELS, SOURCE
from qtx.experiment import Experiment, default, read, recorded
from qtx.families import FAMILIES, build
from qtx.families.conversion import converted_params
from qtx.foundation.config import flattened, read_section, section
from qtx.foundation.errors import QtxError
from qtx.interop.contents import digest_of_folder
from qtx.models import TransformerConfig, differing_options
from qtx.pipeline.classes import known_classes, learns_classes, same_classes
from qtx.quantization.calibration import calibrate
from qtx.quantization.config import QuantizationConfig
from qtx.quantization.qat.model import QatModel, make_qat_model
from qtx.quantization.qat.noise import NoisyModel, make_noisy_model
from qtx.training.distillation import Teacher
from qtx.training.loading import NEWEST, digest_of, find_checkpoint, load_params
from qtx.training.run_folder import TOKENIZER_OPTIONS, RunFolder
from qtx.training.sharding import make_mesh, shard_global_batch

# Options of the model in which a run may differ from its start: another attention is converted, another head is new.
FREE_OPTIONS = ("attention", "head", "num_classes")
OF_OBJECTIVE = ("mask_probability", "min_length")
"""Data options that not every objective takes."""
WARMUP_SHARE = 0.1
HEAD = "head"


def inheriting(config: ConfigDict, named: Container[str] = ()) -> ConfigDict:
    """Completes a config that has a start by the model and the data of the start.

    An option of the section `model` that is neither named nor other than the family's default becomes the start's; a
    head becomes the one that the objective trains. The attention is inherited as one option; another attention is made
    the same function at step 0 (see `qtx.attention.conversion`), with a warm-up of a tenth of training if it has none.
    The data become the start's if no source is named (see `_inherit_data`); how the start saw images is inherited
    whatever images there are now.

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
    _inherit_pixels(config, there, named)
    experiment, wanted = read(config), read_section(AttentionConfig, config.model.attention, "config.model.attention")
    config.model.attention = section(_attention(experiment, wanted, there))
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


def _inherit_pixels(config: ConfigDict, there: Experiment, named: Container[str]) -> None:
    """Takes over the start's pixel options for images of any source, where neither the user nor the config sets any."""
    if config.data.source not in SOURCE.registry:
        return  # reading the config refuses an unknown source
    kept, taken = flattened(there.data), SOURCE.options(config.data.source)
    for option in PIXELS:
        if option in taken and config.data[option] is None and f"data.{option}" not in named:
            config.data[option] = kept[option]


def converted(experiment: Experiment) -> Experiment:
    """Returns an experiment with its attention made the same function as its start's at step 0; see `inheriting`."""
    attention = _attention(experiment, experiment.model.attention, config_of(experiment.start))
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, attention=attention))


def _attention(experiment: Experiment, wanted: AttentionConfig, there: Experiment) -> AttentionConfig:
    """Returns the wanted attention, made the same function at step 0 as the attention of the start, `there`."""
    warmup_steps = max(1, round(WARMUP_SHARE * experiment.training.steps))
    try:
        return converted_attention(wanted, there.model.attention, warmup_steps)
    except QtxError as error:
        raise QtxError(f"config.start={experiment.start}: {error}") from None


def config_of(start: str) -> Experiment:
    """Reads the experiment of the run in the folder that `config.start` names.

    Raises:
      QtxError: if there is no run.
    """
    try:
        return read(recorded(Path(start)))
    except QtxError as error:
        raise QtxError(f"config.start={start}: {error}") from None


def attention_at(experiment: Experiment, workdir: Path, step: int) -> AttentionConfig:
    """Returns the attention of the run in `workdir` at a checkpoint: within a warm-up, what it has grown to by then.
    The final one holds for an imported model, trained elsewhere, and with quantizers, which compute as after the
    warm-up."""
    attention = experiment.model.attention
    if experiment.qat.scheme or RunFolder(workdir).imported.is_dir():
        return attention
    return AttentionConfig(attention.normalizer.at(step), attention.gate)


def qat_model(experiment: Experiment, module: nn.Module, data: Data) -> QatModel | None:
    """Returns the model with quantizers that `config.qat` trains instead of `module`; None: `module` itself is trained.

    Raises:
      QtxError: if the recipe does not fit the model or the training.
    """
    if not experiment.qat.scheme:
        return None
    recipe = experiment.quantization.make_recipe(experiment.qat.scheme, experiment.model)
    return make_qat_model(module, recipe, next(iter(data.evaluation(1))), experiment.qat.learn_ranges)


def noisy_model(experiment: Experiment, module: nn.Module, data: Data) -> NoisyModel | None:
    """Returns the model that `config.qat.noise` trains instead of `module`; None: no quantization noise.

    Raises:
      QtxError: if the recipe does not fit the model.
    """
    if not experiment.qat.noise:
        return None
    recipe = QuantizationConfig(recipe=FAMILIES[experiment.family].recipe).make_recipe(
        experiment.qat.noise, experiment.model
    )
    return make_noisy_model(module, recipe, next(iter(data.evaluation(1))))


def check_start(experiment: Experiment, workdir: Path, identity: Mapping[str, str]) -> None:
    """Raises QtxError unless a run in `workdir` can start from `config.start`; see `identity_of` for the `identity`."""
    start = experiment.start
    if not start:
        return
    if Path(start).resolve() == workdir.resolve():
        raise QtxError(f"config.start={start} is the run's own folder: choose another --workdir")
    if RunFolder(workdir).checkpoints.is_dir():
        return  # the run has started already
    there = config_of(start)
    if there.qat.scheme:
        raise QtxError(
            f"config.start={start} is itself a run of quantization-aware training: start from {there.start}, from "
            "which it started"
        )
    same = there.family == experiment.family
    of_family = [f"family ({there.family} there, {experiment.family} here)"]
    differing = model_differences(there.model, experiment.model) if same else of_family
    if differing:
        raise QtxError(f"config.start={start} is a run of another model: {', '.join(differing)}; give its --config")
    step, normalizer = find_checkpoint(start), there.model.attention.normalizer
    if attention_at(there, Path(start), step) != there.model.attention:
        raise QtxError(
            f"config.start={start} is at step {step}, within the warm-up of its attention ({normalizer.warmup} is "
            f"{normalizer.warmup_steps}): train it further first"
        )
    wanted = experiment.model.attention
    attention = _attention(experiment, wanted, there)
    # Quantizers see attention as it is after its warm-up.
    if attention != (without_warmup(wanted) if experiment.qat.scheme else wanted):
        raise QtxError(
            f"config.model.attention is {attention_text(experiment.model.attention)!r}, with which the model of "
            f"config.start={start} would be another one at once: expected {attention_text(attention)!r}"
        )
    if experiment.qat.scheme and attention != without_warmup(there.model.attention):
        raise QtxError(
            f"config.start={start} has attention {attention_text(there.model.attention)!r}: quantization-aware "
            "training has no warm-up; convert it first, by a run without config.qat.scheme"
        )
    tokenizer = RunFolder(Path(start)).identity().get("tokenizer")
    if tokenizer != identity.get("tokenizer"):
        raise QtxError(
            f"config.start={start} has another tokenizer than the data of this run: choose another --workdir, or leave "
            "config.data.tokenizer out, if it is set"
        )


def model_differences(there: TransformerConfig, here: TransformerConfig) -> list[str]:
    """Lists the options, with both values, by which the parameters of two models of a family mean different things."""
    return [
        f"model.{name} ({getattr(there, name)} there, {getattr(here, name)} here)"
        for name in differing_options(here, there)
        if name not in FREE_OPTIONS
    ]


def initial_params(
    experiment: Experiment, module: nn.Module, qat: QatModel | None, data: Data, workdir: Path
) -> Callable[[], Any] | None:
    """Returns a function for the parameters that a run in `workdir` starts from, on the mesh; None: random ones."""
    folder = experiment.start or (str(workdir) if RunFolder(workdir).imported.is_dir() else "")
    if not folder:
        return None

    def params():
        started = start_params(experiment, module, data, folder)
        return started if qat is None else _calibrated(experiment, qat, data, started)

    return params


def start_params(experiment: Experiment, module: nn.Module, data: Data, folder: str) -> Any:
    """Loads the parameters of the run in a folder for `module`: of the start the newest, of the run's own folder the
    imported ones. A head of another kind or shape, or for other classes, is new."""
    there = config_of(folder)
    original = build(there.model)
    checkpoint = NEWEST if folder == experiment.start else "0"
    params = load_params(original, data, folder, experiment.mesh, checkpoint)
    config: Any = module.config
    boxed = jax.eval_shape(lambda: module.init(jax.random.key(0), config.example())["params"].get(HEAD, {}))
    same = getattr(config, HEAD, None) == getattr(there.model, HEAD, None)
    same = same and jax.tree.map(jnp.shape, nn.unbox(boxed)) == jax.tree.map(jnp.shape, params.get(HEAD, {}))
    same = same and (folder != experiment.start or _has_classes_of_start(experiment, data))
    encoder = params if same else {name: part for name, part in params.items() if name != HEAD}
    return converted_params(module, encoder, experiment.seed)


def _has_classes_of_start(experiment: Experiment, data: Data) -> bool:
    """Says whether the outputs of the start's head mean the classes of an experiment, which its config may rename."""
    if not learns_classes(experiment) or getattr(experiment.data.source, "classes", None) is not None:
        return True
    known = known_classes(starts(config_of(experiment.start), Path(experiment.start)), experiment.objective)
    return known is None or same_classes(known, data.classes or ())


def check_calibration(data: Data, batch_size: int, batches: int) -> None:
    """Raises QtxError if the training data have fewer batches than asked for: their records repeat without end, and the
    same ones twice would pass for more data."""
    there = len(data.training) // batch_size
    if batches > there:
        remedy = f"set config.quantization.calibration_batches to at most {there}" if there else "lower the batch size"
        raise QtxError(
            f"calibration asks for {batches} batches of {batch_size}, but there are {len(data.training):,} training "
            f"examples: {remedy}, or give more data"
        )


def _calibrated(experiment: Experiment, model: QatModel, data: Data, params: Any) -> Any:
    """Returns the parameters of a `QatModel`, with ranges calibrated on training data."""
    quantization, training = experiment.quantization, experiment.training
    rows = training.batch_size // training.accumulation_steps
    check_calibration(data, rows, quantization.calibration_batches)
    mesh = make_mesh(experiment.mesh)
    batches = (shard_global_batch(mesh, batch) for batch in data.calibration(rows, experiment.seed))
    recipe = quantization.make_recipe(experiment.qat.scheme, experiment.model)
    return model.start(params, calibrate(model.module, params, recipe, batches, quantization.calibration_batches))


def starts(experiment: Experiment, workdir: Path | None) -> Iterator[tuple[Path | None, Experiment]]:
    """Yields the folder and the experiment of a run, then those of the run that it started from, and so on.

    Raises:
      QtxError: if a start is no run's folder, or the starts lead back to one of them.
    """
    yield workdir, experiment
    seen: set[Path] = set()
    while experiment.start:
        folder = Path(experiment.start)
        if folder.resolve() in seen:
            raise QtxError(f"config.start={folder} leads back to itself: the run there cannot have started from itself")
        seen.add(folder.resolve())
        experiment = config_of(experiment.start)
        yield folder, experiment


def start_identity(start: str) -> dict[str, str]:
    """Returns what a run's identity says of its start: `start`, the SHA-256 of the newest parameters there. It is empty
    if there is no such run any more, which a run that has begun does not need."""
    folder = RunFolder(Path(start))
    if not start or not folder.config.exists():
        return {}
    step, imported = find_checkpoint(start), folder.imported
    return {"start": digest_of_folder(imported) if step == 0 and imported.is_dir() else digest_of(start, step)}


def check_unchanged(run: Path | None, start: Path) -> None:
    """Raises QtxError if the parameters at the start of a run are no longer those that the run started from. A run that
    has yet to begin has no folder, or its start's, and is not checked."""
    if run in (None, start):
        return
    began = RunFolder(run).identity().get("start") if RunFolder(run).config.exists() else None
    imported = RunFolder(start).imported
    if began is None or (imported.is_dir() and digest_of_folder(imported) == began):
        return
    now = start_identity(str(start)).get("start")
    if now != began:
        raise QtxError(
            f"{run} started from {start}, whose parameters have changed since (SHA-256 {began[:12]} then, "
            f"{str(now)[:12]} now): bring them back, or start a run from what is there now"
        )


def teacher_of(experiment: Experiment, data: Data, workdir: Path | None) -> Teacher | None:
    """Returns the teacher that an experiment learns from and is measured by; None: the objective needs no teacher.

    The teacher is the original: the first in a chain of runs that each learned from the run that they started from.

    Args:
      experiment: the experiment.
      data: gives shapes only.
      workdir: the run's folder, if it has one: an imported run is its own original.

    Raises:
      QtxError: if there is nothing to learn from, or its head is not the experiment's.
    """
    if not OBJECTIVES[experiment.objective].taught:
        return None
    chain: list[tuple[Path | None, Experiment]] = []
    for one in starts(experiment, workdir):
        chain.append(one)
        if not OBJECTIVES[one[1].objective].taught:
            break  # this run learned from no other
    folder, there = chain[-1]
    if there is experiment and (workdir is None or not RunFolder(workdir).imported.is_dir()):
        raise QtxError(
            f"objective {experiment.objective!r} learns from the run that training starts from, but config.start is "
            "empty: give its folder, e.g. --config.start=runs/x"
        )
    for option in (HEAD, "num_classes"):
        its, own = getattr(there.model, option, None), getattr(experiment.model, option, None)
        if its != own:
            raise QtxError(
                f"objective {experiment.objective!r} compares outputs with those of {folder}, whose model.{option} is "
                f"{its!r}, but config.model.{option} is {own!r}: leave it out"
            )
    module = build(dataclasses.replace(there.model, dtype="float32"))
    assert folder is not None, "an experiment that learns from another has that one's folder"
    if len(chain) > 1:
        check_unchanged(chain[-2][0], folder)
    checkpoint = "0" if RunFolder(folder).imported.is_dir() else NEWEST
    params = load_params(module, data, folder, experiment.mesh, checkpoint)
    return Teacher(module, params, experiment.training.distill_layers)


def original_of(experiment: Experiment, workdir: Path) -> Path | None:
    """Returns the checkpoint that a run's model was imported from, into its own folder or into that of the first of its
    starts; None: there is none, or the head has changed since.

    Raises:
      QtxError: if the checkpoint is no longer what the run started from.
    """
    *before, (folder, there) = starts(experiment, workdir)
    assert folder is not None
    if before:
        check_unchanged(before[-1][0], folder)
    imported = RunFolder(folder).imported
    same = all(getattr(there.model, x, None) == getattr(experiment.model, x, None) for x in (HEAD, "num_classes"))
    return imported if imported.is_dir() and same else None
