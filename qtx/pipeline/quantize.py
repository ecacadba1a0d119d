"""This module quantizes a trained run to the schemes of its config."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qtx.experiment import Experiment, record
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import sealed_json
from qtx.pipeline.assemble import Assembled
from qtx.pipeline.run import TrainedRun
from qtx.quantization import Quantized, calibrate
from qtx.quantization.files import LEARNED, load_ranges, read_ranges, save_ranges
from qtx.quantization.methods import make_method
from qtx.quantization.recipes.recorded import read_entries
from qtx.training import RunFolder


def quantize(run: TrainedRun) -> dict[str, Quantized]:
    """Returns the model under every scheme of the config: with its learned ranges under the scheme that the run was
    trained under, with ranges calibrated on training data under the others."""
    return {scheme: under(run, scheme) for scheme in run.assembled.experiment.quantization.schemes}


def under(run: TrainedRun, scheme: str) -> Quantized:
    """Returns the model under one scheme; see `quantize`."""
    trained, assembled = run.trained_schemes, run.assembled
    if scheme in trained:
        return trained[scheme]
    config = assembled.experiment.quantization
    return calibrate(
        assembled.module,
        run.floating_point,
        config.make_recipe(scheme, assembled.module.config),
        assembled.calibration(),
        config.calibration_batches,
        config.make_method(),
    )


def unrounded(run: TrainedRun, scheme: str) -> Any:
    """Returns the parameters that `under` rounds: those in floating point, as the method rewrites them."""
    if scheme in run.trained_schemes:
        return run.floating_point
    return run.assembled.experiment.quantization.make_method().rewrite(run.assembled.module, run.floating_point)[1]


def method_of(assembled: Assembled, scheme: str) -> str:
    """Names the method by which `quantize` quantizes to a scheme: the config's own, as written there, or `LEARNED` for
    the scheme that the run was trained under."""
    trained = assembled.qat is not None and scheme == assembled.experiment.qat.scheme
    return LEARNED if trained else assembled.experiment.quantization.method


def with_ranges(run: TrainedRun, file: Path) -> dict[str, Quantized]:
    """Returns the model with the ranges of a file, by scheme; their scheme and method must be the config's.

    Raises:
      QtxError: if the config has others, or the ranges are of another model, checkpoint or recipe (see `load_ranges`).
    """
    assembled, saved = run.assembled, read_ranges(file)
    config = assembled.experiment.quantization
    if saved.scheme not in config.schemes:
        raise QtxError(
            f"{file} holds ranges of {saved.scheme}, and the config says {', '.join(config.schemes)}: give "
            f"--scheme={saved.scheme}, or calibrate anew, without --ranges"
        )
    method = method_of(assembled, saved.scheme)
    learned = LEARNED in (saved.method, method)
    if saved.method != method and (learned or make_method(saved.method) != make_method(method)):
        how = "" if learned else f"give --method={shlex.quote(saved.method)}, or "
        raise QtxError(
            f"{file} holds ranges of method {saved.method}, and the config says {method}: {how}calibrate anew, without "
            "--ranges"
        )
    recipe = config.make_recipe(saved.scheme, assembled.module.config)
    example = next(iter(assembled.data.evaluation(1)))
    return {saved.scheme: load_ranges(assembled.module, run.floating_point, recipe, example, saved)}


def one_scheme(experiment: Experiment, named: bool) -> str:
    """Returns the scheme of a command that takes one: the config's first, or, after quantization-aware training, the
    scheme that the run was trained under, unless the user has `named` schemes."""
    return experiment.qat.scheme if experiment.qat.scheme and not named else experiment.quantization.schemes[0]


def origin_of_ranges(assembled: Assembled, scheme: str) -> str:
    """Says in words where the ranges of `under` are from."""
    method = method_of(assembled, scheme)
    if method == LEARNED:
        return "ranges learned in training"
    anew = "" if assembled.qat is None else f" anew (the run was trained under {assembled.experiment.qat.scheme})"
    exempt = assembled.experiment.quantization.exempt
    beside = f"; exempt: {', '.join(exempt)}" if exempt else ""
    return f"ranges calibrated{anew}, method {method}{beside}"


def keep_quantization(run: TrainedRun) -> None:
    """Records the quantization of the run's experiment in its folder, with the rules of a user's own recipe: later
    commands on the run take it from there."""
    folder, assembled = RunFolder(run.workdir), run.assembled
    quantization = assembled.experiment.quantization
    rules = quantization.recorded_rules(quantization.schemes, assembled.module.config)
    if rules:
        earlier = read_entries(folder.recipe) if folder.recipe.exists() else {}
        folder.write(folder.recipe.name, sealed_json({**earlier, **rules}).decode())
    folder.write_config({**folder.read_config(), "quantization": record(assembled.experiment)["quantization"]})


def ranges_file(workdir: Path, scheme: str) -> Path:
    """Returns the file in a run's folder that has the ranges of a scheme."""
    return workdir / "ranges" / f"{scheme}.safetensors"


def keep_ranges(run: TrainedRun, schemes: Mapping[str, Quantized]) -> list[Path]:
    """Writes the ranges of each scheme to the run's folder and returns the files."""
    files = {scheme: ranges_file(run.workdir, scheme) for scheme in schemes}
    for scheme, file in files.items():
        save_ranges(schemes[scheme], run.floating_point, file, method_of(run.assembled, scheme), scheme)
    return list(files.values())
