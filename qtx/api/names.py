"""This module defines the ten names of `import qtx`: a `Model` is loaded, diagnosed, quantized, healed and exported.

Each does what the command of its name does, through the same functions of `qtx.pipeline`. A command records what it
measures in the run's folder; here it is returned.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from qtx.api.folders import Texts, Workdir, of_texts
from qtx.api.model import Model, QuantizedModel
from qtx.experiment import Experiment, read
from qtx.foundation.console import Console
from qtx.foundation.errors import QtxError
from qtx.foundation.paths import at_home
from qtx.pages.shown import Comparison, ShownDiagnosis
from qtx.pipeline.analyze import is_run, open_run
from qtx.pipeline.assemble import assemble
from qtx.pipeline.compare import assemble_comparison, rebuild, run_comparison
from qtx.pipeline.config_files import load_config_file, load_run_config, override, run_of
from qtx.pipeline.importing import check_attention_length, config_of_checkpoint, found
from qtx.pipeline.inheritance import inheriting
from qtx.pipeline.measure import metrics_of
from qtx.pipeline.run import assemble_exported, train_run
from qtx.quantization.integer import load as load_integers
from qtx.quantization.integer.files import DESCRIPTION


def load(
    source: str | Path,
    texts: Texts | None = None,
    workdir: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Model:
    """Loads a model: a checkpoint, of which a run is made, or a run.

    Args:
      source: `organization/name` of the Hugging Face Hub, a folder with a checkpoint, the folder of a run, or
        `builtin:minilm-2l`.
      texts: what to calibrate and measure on; None: the run's own data, and for a checkpoint the prose that comes with
        Python.
      workdir: the folder of a checkpoint's run, for later commands; None: a temporary one, which goes with the model.
      options: further options of the run's config by their dotted keys, e.g. `{"data.sequence_length": 64}`.

    Raises:
      QtxError: if there is no such model, qtx cannot read it, or an option is refused.

    >>> model = qtx.load("builtin:minilm-2l", options={"data.sequence_length": 32, "training.eval_batches": 2})
    >>> model
    minilm-2l: BERT (post-LN, bidirectional), 2 layers, width 384, 12 heads, ...
    """
    given, place = at_home(str(source)), Workdir(workdir)
    of_run = is_run(given)
    if of_run and workdir is not None:
        raise QtxError(f"{source} is a run's folder: leave workdir out")
    folder, checkpoint = (given, None) if of_run else (place.path, found(str(source)))
    chosen = {**of_texts(texts, place.path), **(options or {})}
    if checkpoint is None:
        config = load_run_config(folder, chosen)
    else:
        config = config_of_checkpoint(checkpoint, "data.source" in chosen)
    override(config, chosen)
    if checkpoint is not None:
        check_attention_length(config)
    names_data = any(key.startswith("data.") for key in chosen)
    run = open_run(read(config), folder, checkpoint, names_data)
    return Model(run, checkpoint, chosen, kept=(place,))


def train(
    config: str | Path | ConfigDict, workdir: str | Path | None = None, options: Mapping[str, Any] | None = None
) -> Model:
    """Trains a model, or goes on with its training.

    Args:
      config: a config file, or the name of a config that comes with qtx, as on the command line ("demo:gated_linear");
        or a config, e.g. from `qtx.experiment.default`.
      workdir: the run's folder, where the same call goes on with it; None: a temporary one, which goes with the model.
      options: values that override the config's, by their dotted keys, e.g. `{"training.steps": 500}`.

    Raises:
      QtxError: if the config is wrong, or the folder holds another run.

    >>> qtx.train("demo:gated_linear:smoke", options={"training.steps": 4}).run.checkpoint
    4
    """
    place = Workdir(workdir)
    run = train_run(assemble(_experiment(config, options, place.path), workdir=place.path), place.path)
    return Model(run, kept=(place,))


def compare(
    config: str | Path | ConfigDict, workdir: str | Path, options: Mapping[str, Any] | None = None
) -> Comparison:
    """Trains, quantizes and measures every variant with every seed of `config.compare`; the same call goes on with what
    is not finished. Arguments and errors are those of `train`.

    Returns:
      the results, which show themselves as a page in a notebook, and as a table in a terminal.
    """
    folder = at_home(str(workdir))
    experiment = _experiment(config, options, folder)
    data = assemble_comparison(experiment, folder).data
    return Comparison(run_comparison(experiment, folder, Console(force_jupyter=False), data), folder)


def report(workdir: str | Path) -> Comparison:
    """Returns the results of a comparison, finished or not, and writes its table and report again.

    Raises:
      QtxError: if the folder holds no comparison.
    """
    folder = at_home(str(workdir))
    return Comparison(rebuild(folder), folder)


def diagnose(model: Model | str | Path, **options: Any) -> ShownDiagnosis:
    """Diagnoses a model, loaded or not; see `Model.diagnose`."""
    return _model(model).diagnose(**options)


def quantize(model: Model | str | Path, bits: str = "w8a8", **options: Any) -> QuantizedModel:
    """Returns a model, loaded or not, quantized; see `Model.quantize`."""
    return _model(model).quantize(bits, **options)


def heal(model: Model | str | Path, texts: Texts | None = None, **options: Any) -> Model:
    """Returns a model, loaded or not, healed; see `Model.heal`."""
    return _model(model).heal(texts, **options)


def encode(model: Model | QuantizedModel | str | Path, texts: Sequence[str], prompt: str | None = None) -> np.ndarray:
    """Returns the embeddings of texts, float32 `[N, D]`, by a model, loaded or not; see `Model.encode`.

    >>> vectors = qtx.encode("builtin:minilm-2l", ["A sentence."])
    >>> round(float((vectors**2).sum()), 4)
    1.0
    """
    return (model if isinstance(model, QuantizedModel) else _model(model)).encode(texts, prompt)


def export(model: Model | str | Path, folder: str | Path, format: str = "huggingface", **options: Any) -> Path:
    """Writes a model, loaded or not, to a folder; see `Model.export`."""
    return _model(model).export(folder, format, **options)


def evaluate(model: Model | str | Path) -> dict[str, float]:
    """Returns loss and metrics of a model, loaded or not (see `Model.evaluate`), or of an export in integers."""
    if not isinstance(model, Model) and (at_home(str(model)) / DESCRIPTION).is_file():
        folder = at_home(str(model))
        assembled = assemble_exported(read(load_run_config(folder)), folder)
        return metrics_of(assembled, load_integers(assembled.module, folder))
    return _model(model).evaluate()


def _model(model: Model | str | Path) -> Model:
    return model if isinstance(model, Model) else load(model)


def _experiment(config: str | Path | ConfigDict, options: Mapping[str, Any] | None, folder: Path) -> Experiment:
    """Returns the experiment of a config, overridden; it inherits from the run that it starts from."""
    given = options or {}
    chosen = copy.deepcopy(config) if isinstance(config, ConfigDict) else load_config_file(str(config))
    override(chosen, given)
    if chosen.start:
        chosen.start = run_of(chosen.start, folder)
    return read(inheriting(chosen, given))
