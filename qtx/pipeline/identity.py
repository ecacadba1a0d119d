"""What a run was made from: its tokenizer and its data, told from their content, so that no others pass for them."""

from __future__ import annotations

from pathlib import Path

from qtx.data import Data, DataConfig, load
from qtx.experiment import Experiment
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import sealed_json
from qtx.models import TransformerConfig
from qtx.training.run_folder import RECIPE, RunFolder


def origin(experiment: Experiment, workdir: Path) -> RunFolder | None:
    """The run whose tokenizer an experiment in `workdir` has: that in the folder, or the one that training starts
    from; None: it has yet to make one."""
    folders = [RunFolder(workdir), *([RunFolder(Path(experiment.start))] if experiment.start else [])]
    return next((folder for folder in folders if folder.config.exists()), None)


def load_data(config: DataConfig, objective: str, run: RunFolder | None = None) -> Data:
    """The data of a config, cut by a run's own tokenizer if there is a run: its tokenizer is never trained anew.

    Args:
      config: which data; not necessarily those that the run was trained on.
      objective: see `qtx.data.load`.
      run: see `origin`.

    Raises:
      QtxError: as `load`; if the run's tokenizer cannot be read, or the data are of another kind than the run's.
    """
    if run is None:
        return load(config, objective)
    cut, takes_tokenizer = "tokenizer" in run.identity(), hasattr(config.source, "tokenizer")
    if takes_tokenizer != cut:
        kinds = {True: "text, cut by a tokenizer", False: "data without a tokenizer"}
        raise QtxError(
            f"{run.root} was trained on {kinds[cut]}, but data source {config.name!r} gives {kinds[takes_tokenizer]}"
        )
    if not cut:
        return load(config, objective)
    if not run.tokenizer.is_file():
        raise QtxError(f"{run.tokenizer} is missing, the tokenizer that the run was trained with: restore it")
    return load(config.with_tokenizer(run.tokenizer), objective)


def identity_of(data: Data) -> dict[str, str]:
    """The SHA-256 of each part: `tokenizer`, of its files; `training` and `held_out`, of what the splits hold."""
    if data.tokenizer is None:
        return dict(data.digests)
    return {"tokenizer": data.tokenizer.digest, **data.digests}


def kept_files(experiment: Experiment, model: TransformerConfig, data: Data) -> dict[str, str]:
    """Name to text of what a run keeps from its start: the tokenizer, and the rules of a recipe of the user's own.

    Args:
      experiment: the run's.
      model: its config, sizes filled in.
      data: the run's.
    """
    schemes = (*experiment.quantization.schemes, *([experiment.qat.scheme] if experiment.qat.scheme else []))
    rules = experiment.quantization.recorded_rules(schemes, model)
    files = {} if data.tokenizer is None else dict(data.tokenizer.files)
    return files | ({RECIPE: sealed_json(rules).decode()} if rules else {})
