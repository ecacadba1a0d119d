"""This module finds the teacher of a run that learns from a model and not from labels: the original of the run."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from qtx.data import OBJECTIVES, Data
from qtx.experiment import Experiment
from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.pipeline.lineage import check_unchanged, other_head, starts
from qtx.training.distillation import Teacher
from qtx.training.loading import NEWEST, load_params
from qtx.training.relief import ReliefConfig, relieved
from qtx.training.run_folder import RunFolder


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
    for option, its, own in other_head(there, experiment):
        raise QtxError(
            f"objective {experiment.objective!r} compares outputs with those of {folder}, whose model.{option} is "
            f"{its!r}, but config.model.{option} is {own!r}: leave it out"
        )
    module = build(dataclasses.replace(there.model, dtype="float32"))
    assert folder is not None, "an experiment that learns from another has that one's folder"
    if len(chain) > 1:
        check_unchanged(chain[-2][0], folder)
    checkpoint = "0" if RunFolder(folder).imported.is_dir() else NEWEST
    load = functools.partial(load_params, module, data, folder, experiment.mesh, checkpoint)
    prefix = experiment.relief.prefix
    if not prefix or there.relief.prefix:
        return Teacher(module, load, experiment.training.distill_layers)
    # What stands before every text stands before the teacher's, too.
    with_prefix = build(dataclasses.replace(module.config, prefix=len(prefix)))
    return Teacher(
        with_prefix,
        lambda: relieved(ReliefConfig(prefix), with_prefix, module, load()),
        experiment.training.distill_layers,
    )
