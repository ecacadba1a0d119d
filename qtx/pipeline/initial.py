"""This module loads the parameters that a run starts from: those of another run, or those imported into its own folder.

A head for other outputs is new, and quantizers are calibrated on the training data.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.data import Data
from qtx.experiment import Experiment
from qtx.families import build
from qtx.families.conversion import converted_params
from qtx.pipeline.assemble import Assembled
from qtx.pipeline.classes import known_classes, learns_classes, same_classes
from qtx.pipeline.lineage import HEAD, config_of, starts
from qtx.quantization.calibration import calibrate
from qtx.quantization.qat.model import QatModel
from qtx.training.loading import NEWEST, load_params
from qtx.training.relief import relieved, with_sinks
from qtx.training.run_folder import RunFolder


def initial_params(assembled: Assembled, workdir: Path) -> Callable[[], Any] | None:
    """Returns a function for the parameters that a run in `workdir` starts from, on the mesh; None: random ones."""
    folder = assembled.experiment.start or (str(workdir) if RunFolder(workdir).imported.is_dir() else "")
    if not folder:
        return None

    def params():
        started, qat = start_params(assembled, folder), assembled.qat
        return started if qat is None else _calibrated(assembled, qat, started)

    return params


def start_params(assembled: Assembled, folder: str) -> Any:
    """Loads the parameters of the run in a folder for the experiment's model: of the start the newest, of the run's own
    folder the imported ones. A head of another kind or shape, or for other classes, is new."""
    experiment, module, there = assembled.experiment, assembled.module, config_of(folder)
    checkpoint = NEWEST if folder == experiment.start else "0"
    params = load_params(build(there.model), assembled.data, folder, experiment.mesh, checkpoint)
    example = experiment.model.example()
    boxed = jax.eval_shape(lambda: module.init(jax.random.key(0), example)["params"].get(HEAD, {}))
    same = getattr(experiment.model, HEAD, None) == getattr(there.model, HEAD, None)
    same = same and jax.tree.map(jnp.shape, nn.unbox(boxed)) == jax.tree.map(jnp.shape, params.get(HEAD, {}))
    same = same and (folder != experiment.start or _has_classes_of_start(experiment, assembled.data))
    encoder = params if same else {name: part for name, part in params.items() if name != HEAD}
    converted = converted_params(module, encoder, experiment.seed)
    if experiment.relief == there.relief or folder != experiment.start:
        return converted
    original = build(there.model, assembled.data)
    changed = relieved(experiment.relief, module, original, converted)
    if not experiment.relief.sinks:
        return changed
    batches = itertools.islice(assembled.calibration(), experiment.quantization.calibration_batches)
    return with_sinks(changed, original, batches)


def _has_classes_of_start(experiment: Experiment, data: Data) -> bool:
    """Says whether the outputs of the start's head mean the classes of an experiment, which its config may rename."""
    if not learns_classes(experiment) or getattr(experiment.data.source, "classes", None) is not None:
        return True
    known = known_classes(starts(config_of(experiment.start), Path(experiment.start)), experiment.objective)
    return known is None or same_classes(known, data.classes or ())


def _calibrated(assembled: Assembled, model: QatModel, params: Any) -> Any:
    """Returns the parameters of a `QatModel`, with ranges calibrated on training data."""
    quantization = assembled.experiment.quantization
    recipe = quantization.make_recipe(assembled.experiment.qat.scheme, assembled.experiment.model)
    batches = assembled.calibration()
    return model.start(params, calibrate(model.module, params, recipe, batches, quantization.calibration_batches))
