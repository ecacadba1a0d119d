"""What a run starts from: the parameters of another run, or those that were imported into its folder; with
quantization-aware training, calibrated. And what it learns from, if that is the run that it started from."""

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

# Options in which a run and one that starts from it may be of different models: another attention is converted, and
# another head is a new one.
FREE_OPTIONS = ("attention", "head", "num_classes")
OF_OBJECTIVE = ("mask_probability", "min_length")
"""Options of data that not every objective takes."""
WARMUP_SHARE = 0.1
HEAD = "head"


def inheriting(config: ConfigDict, named: Container[str] = ()) -> ConfigDict:
    """Completes a config with `start` by the model and the data of the start.

    An option of the section `model` that is neither named nor other than the family's default is the start's, but for
    the head, which is the one that the objective trains. The attention is inherited as one option; another attention is
    made the same function at step 0 (see `qtx.attention.conversion`), with a warm-up of a tenth of training if it has
    none. The data are the start's if no source is named (see `_inherit_data`); how the start saw images is inherited
    whatever images there are now.

    Args:
      config: of an experiment; without a start it is returned as it is.
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
        start = {name: value for name, value in start.items() if name != "num_classes"}  # the data tell
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
    """Makes the data of a config those of its start, unless it names a source (another than the family's default) or
    those do not serve its objective. An option that is named, or other than the default, stays, unless a config file
    gave it to the default source and the start's does not take it."""
    usual, source = default(config.family).data, there.data.source
    if "data.source" in named or config.data.source != usual.source:
        return
    if config.objective not in OBJECTIVES or not source.serves(OBJECTIVES[config.objective]):
        return
    same_objective, taken = config.objective == there.objective, ("source", *SOURCE.options(there.data.name))
    for option, value in section(there.data).items():
        # Which tokenizer cuts them, the start's own file says.
        own = option in TOKENIZER_OPTIONS or (option in OF_OBJECTIVE and option in taken and not same_objective)
        if not own and f"data.{option}" not in named and (config.data[option] == usual[option] or option not in taken):
            config.data[option] = value


def _inherit_pixels(config: ConfigDict, there: Experiment, named: Container[str]) -> None:
    """Makes images of whatever source what the start saw of images, as far as neither the user nor the config says."""
    if config.data.source not in SOURCE.registry:
        return  # which is told where the config is read
    kept, taken = flattened(there.data), SOURCE.options(config.data.source)
    for option in PIXELS:
        if option in taken and config.data[option] is None and f"data.{option}" not in named:
            config.data[option] = kept[option]


def converted(experiment: Experiment) -> Experiment:
    """An experiment with a start, its attention the same function at step 0; see `inheriting`."""
    attention = _attention(experiment, experiment.model.attention, config_of(experiment.start))
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, attention=attention))


def _attention(experiment: Experiment, wanted: AttentionConfig, there: Experiment) -> AttentionConfig:
    """The attention of an experiment that starts from the run of `there`: the same function at step 0."""
    warmup_steps = max(1, round(WARMUP_SHARE * experiment.training.steps))
    try:
        return converted_attention(wanted, there.model.attention, warmup_steps)
    except QtxError as error:
        raise QtxError(f"config.start={experiment.start}: {error}") from None


def config_of(start: str) -> Experiment:
    """The experiment of a run's folder that `config.start` names.

    Raises:
      QtxError: if it is none.
    """
    try:
        return read(recorded(Path(start)))
    except QtxError as error:
        raise QtxError(f"config.start={start}: {error}") from None


def attention_at(experiment: Experiment, workdir: Path, step: int) -> AttentionConfig:
    """The attention of the run in `workdir` at a checkpoint: without a warm-up if it has not come to its end. An
    imported model has grown elsewhere, and with quantizers everything is computed as it is after the warm-up."""
    attention = experiment.model.attention
    if experiment.qat.scheme or RunFolder(workdir).imported.is_dir():
        return attention
    return AttentionConfig(attention.normalizer.at(step), attention.gate)


def qat_model(experiment: Experiment, module: nn.Module, data: Data) -> QatModel | None:
    """What `config.qat` says to train instead of `module`; None: nothing else.

    Raises:
      QtxError: if the recipe does not fit the model or the training.
    """
    if not experiment.qat.scheme:
        return None
    recipe = experiment.quantization.make_recipe(experiment.qat.scheme, experiment.model)
    return make_qat_model(module, recipe, next(iter(data.evaluation(1))), experiment.qat.learn_ranges)


def noisy_model(experiment: Experiment, module: nn.Module, data: Data) -> NoisyModel | None:
    """What `config.qat.noise` says to train instead of `module`; None: nothing else.

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
    """Raises QtxError unless a run in `workdir`, of an identity (see `identity_of`), can start from `config.start`."""
    start = experiment.start
    if not start:
        return
    if Path(start).resolve() == workdir.resolve():
        raise QtxError(f"config.start={start} is the run's own folder: choose another --workdir")
    if RunFolder(workdir).checkpoints.is_dir():
        return  # it has started
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
    # With quantizers everything is computed as it is after its warm-up.
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
    """The options, with both values, by which the parameters of two models of a family do not mean the same."""
    return [
        f"model.{name} ({getattr(there, name)} there, {getattr(here, name)} here)"
        for name in differing_options(here, there)
        if name not in FREE_OPTIONS
    ]


def initial_params(
    experiment: Experiment, module: nn.Module, qat: QatModel | None, data: Data, workdir: Path
) -> Callable[[], Any] | None:
    """What gives the parameters that a run in `workdir` starts from, on the mesh; None: random ones."""
    folder = experiment.start or (str(workdir) if RunFolder(workdir).imported.is_dir() else "")
    if not folder:
        return None

    def params():
        started = start_params(experiment, module, data, folder)
        return started if qat is None else _calibrated(experiment, qat, data, started)

    return params


def start_params(experiment: Experiment, module: nn.Module, data: Data, folder: str) -> Any:
    """The newest parameters of the run in a folder, as those of `module`; a head of another kind or shape, or for other
    classes, is new."""
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
    """Whether the outputs of the start's head mean what an experiment's labels do: the same classes, which the config
    may give other names."""
    if not learns_classes(experiment) or getattr(experiment.data.source, "classes", None) is not None:
        return True
    known = known_classes(starts(config_of(experiment.start), Path(experiment.start)), experiment.objective)
    return known is None or same_classes(known, data.classes or ())


def check_calibration(data: Data, batch_size: int, batches: int) -> None:
    """Raises QtxError if so many batches are more than the training data has: its records repeat without end, and the
    same ones twice would pass for more data."""
    there = len(data.training) // batch_size
    if batches > there:
        remedy = f"set config.quantization.calibration_batches to at most {there}" if there else "lower the batch size"
        raise QtxError(
            f"calibration asks for {batches} batches of {batch_size}, but there are {len(data.training):,} training "
            f"examples: {remedy}, or give more data"
        )


def _calibrated(experiment: Experiment, model: QatModel, data: Data, params: Any) -> Any:
    """Parameters with ranges calibrated on training data."""
    quantization, training = experiment.quantization, experiment.training
    rows = training.batch_size // training.accumulation_steps
    check_calibration(data, rows, quantization.calibration_batches)
    mesh = make_mesh(experiment.mesh)
    batches = (shard_global_batch(mesh, batch) for batch in data.calibration(rows, experiment.seed))
    recipe = quantization.make_recipe(experiment.qat.scheme, experiment.model)
    return model.start(params, calibrate(model.module, params, recipe, batches, quantization.calibration_batches))


def starts(experiment: Experiment, workdir: Path | None) -> Iterator[tuple[Path | None, Experiment]]:
    """A run and those that it started from, one after the other: their folders and experiments, its own first.

    Raises:
      QtxError: if one of them is no run, or they lead back to one of them.
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
    """What a run's identity says of the run that it starts from: the SHA-256 `start` of the newest parameters there;
    nothing if there is no such run any more, which one that has begun does not need."""
    folder = RunFolder(Path(start))
    if not start or not folder.config.exists():
        return {}
    step, imported = find_checkpoint(start), folder.imported
    return {"start": digest_of_folder(imported) if step == 0 and imported.is_dir() else digest_of(start, step)}


def check_unchanged(run: Path | None, start: Path) -> None:
    """Raises QtxError if the parameters at the start of a run are no longer those that it started from. A run that has
    yet to begin has no folder, or is told by its start's."""
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
    """What the objective of an experiment learns from, and is measured by; None: it has labels.

    It is the original: of runs that each learned from the one that they started from, the first of these.

    Args:
      experiment: which.
      data: gives shapes only.
      workdir: the run's folder, if it has one: an imported run is its own original.

    Raises:
      QtxError: if there is nothing to learn from.
    """
    if not OBJECTIVES[experiment.objective].taught:
        return None
    chain: list[tuple[Path | None, Experiment]] = []
    for one in starts(experiment, workdir):
        chain.append(one)
        if not OBJECTIVES[one[1].objective].taught:
            break  # it learned from no other
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
    """The checkpoint that a run's model was imported from, its own or that of the run at the beginning of its starts,
    if its head is still the same; None: there is none.

    Raises:
      QtxError: if it is no longer what the run started from.
    """
    *before, (folder, there) = starts(experiment, workdir)
    assert folder is not None
    if before:
        check_unchanged(before[-1][0], folder)
    imported = RunFolder(folder).imported
    same = all(getattr(there.model, x, None) == getattr(experiment.model, x, None) for x in (HEAD, "num_classes"))
    return imported if imported.is_dir() and same else None
