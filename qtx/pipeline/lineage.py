"""This module follows a run back to the runs that it started from, and says whether these are still what they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qtx.experiment import Experiment, read, recorded
from qtx.foundation.errors import QtxError
from qtx.interop.contents import digest_of_folder
from qtx.training.loading import digest_of, find_checkpoint
from qtx.training.run_folder import RunFolder

HEAD = "head"


def config_of(start: str) -> Experiment:
    """Reads the experiment of the run in the folder that `config.start` names.

    Raises:
      QtxError: if there is no run.
    """
    try:
        return read(recorded(Path(start)))
    except QtxError as error:
        raise QtxError(f"config.start={start}: {error}") from None


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
    return imported if imported.is_dir() and not other_head(there, experiment) else None


def other_head(there: Experiment, experiment: Experiment) -> list[tuple[str, object, object]]:
    """Lists the options of the model's head that two experiments have otherwise, each with both values."""
    values = [(x, getattr(there.model, x, None), getattr(experiment.model, x, None)) for x in (HEAD, "num_classes")]
    return [(option, its, own) for option, its, own in values if its != own]
