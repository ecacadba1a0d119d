"""Checkpoints of a run: the training state and the position in the data. The only module that knows Orbax.

A checkpoint is written beside the others under a temporary name and renamed when complete: a run killed while saving
has its previous checkpoint, and the incomplete one is removed when the run goes on. A checkpoint keeps a fingerprint of
its arrays, by which later damage is recognized.

Orbax is imported where it is used: importing takes a while, and help and config errors need not wait for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected, seal, unseal
from qtx.training.earlier import of_this_version
from qtx.training.fingerprint import fingerprint
from qtx.training.run_folder import differences, other_contents

DAMAGED = "damaged_checkpoints"
EXPECTED = Expected("the progress of a run", "see what is told of its checkpoint")


class DamagedCheckpoint(QtxError):
    """A checkpoint is not as it was written: its checksum differs, or a file is missing or makes no sense."""


class UnreadableCheckpoint(QtxError):
    """A checkpoint cannot be read now, for a reason outside of the checkpoint."""


class Checkpoints:
    """The checkpoints in a folder; use it in `with`, which waits for the last save.

    Args:
      folder: the checkpoints' folder; created if absent.
      keep: how many of the newest checkpoints stay; None: all (for reading).
      keep_best: how many of the checkpoints with the best scores stay besides.
    """

    def __init__(self, folder: Path, keep: int | None = None, keep_best: int = 0):
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN

        self.folder = Path(folder).absolute()
        self._scores: dict[int, float] = {}
        # Handlers are named because a manager that has not saved yet does not know the items of a checkpoint.
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy([LatestN(keep), _Best(self._scores, keep_best)]),
                cleanup_tmp_directories=keep is not None,
            ),
            item_handlers={"state": ocp.PyTreeCheckpointHandler(), "progress": ocp.JsonCheckpointHandler()},
        )
        for step in self.steps():
            with contextlib.suppress(DamagedCheckpoint):
                self._remember(step, self._progress(step)["score"])

    def steps(self) -> list[int]:
        """Returns the number of updates done at each complete checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """Returns the number of updates done at the newest complete checkpoint; None: there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Returns the number of updates done at the checkpoint with the best score; None: no checkpoint has a score."""
        scored = self._scores.keys() & set(self.steps())
        return max(scored, key=lambda step: (self._scores[step], step), default=None)

    def is_best(self, score: float) -> bool:
        """Says whether a score is better than the score of every checkpoint; NaN never is."""
        return not math.isnan(score) and all(score > other for other in self._scores.values())

    def _remember(self, step: int, score: float | None) -> None:
        if score is not None and not math.isnan(score):
            self._scores[step] = score

    def save(
        self,
        step: int,
        state: Any,
        position: Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
        score: float | None = None,
        pending: Sequence[str] = (),
    ) -> None:
        """Copies the state, and writes it in the background, in place of any earlier checkpoint of that step.

        Args:
          step: updates done.
          state: a tree of arrays, on any mesh.
          position: the position in the data, of JSON types and the same on every process: another number of processes
            may go on from it.
          config: the config that defines the run, of JSON types.
          score: the score at this step, higher is better; None: not measured.
          pending: names of the measurements still to be made at this step.

        Raises:
          QtxError: if this save, or the one before it, cannot be written.
        """
        import orbax.checkpoint as ocp

        progress = {
            "position": dict(position),
            "config": None if config is None else dict(config),
            "fingerprint": fingerprint(state),
            "score": score,
            "pending": list(pending),
        }
        sealed = seal(json.loads(json.dumps(progress)))
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), progress=ocp.args.JsonSave(sealed))
        self._remember(step, score)
        if step in self.steps():
            self._writing(lambda: self._manager.delete(step))
        self._writing(lambda: self._manager.save(step, args=items))

    def wait(self) -> None:
        """Waits until all saves are on disk.

        Raises:
          QtxError: if a save cannot be written.
        """
        self._writing(self._manager.wait_until_finished)

    def _writing(self, write: Callable[[], Any]) -> None:
        try:
            write()
        # Orbax passes on what its storage library raises: OSError, ValueError, RuntimeError and others.
        except Exception as error:
            raise QtxError(
                f"cannot write a checkpoint to {self.folder}: {_first_line(error)}; the previous checkpoint is intact: "
                "make room (or mend what the message says), and the same command goes on from it"
            ) from error

    def restore_newest(self, state: Any, config: Mapping[str, Any], warn: Callable[[str], None]) -> Restored | None:
        """Restores the newest checkpoint that is whole; returns None if there are no checkpoints.

        Damaged checkpoints before it are told to `warn` and, only once a whole one is found, moved to the folder
        `damaged_checkpoints` beside this one. Processes agree: what one of them finds damaged is used by none.

        Raises:
          UnreadableCheckpoint: if one of the processes cannot read the newest checkpoint that is not damaged; nothing
            is moved then.
          QtxError: if all checkpoints are damaged, or the newest whole one is of another model or config.
        """
        damaged: list[str] = []
        for step in reversed(self.steps()):
            error: QtxError | None = None
            try:
                found = self.restore(step, state, config)
            except QtxError as raised:
                error = raised
            verdict = 0 if error is None else 1 if isinstance(error, DamagedCheckpoint) else 2
            if jax.process_count() > 1:
                verdict = int(np.max(multihost_utils.process_allgather(np.int32(verdict))))
            if verdict == 2:
                path = self._path(step)
                raise error or UnreadableCheckpoint(f"another process cannot read the checkpoint {path}; it says why")
            if verdict == 1:
                warn(f"{error or f'another process finds {self._path(step)} damaged'}: trying the one before it")
                damaged.append(str(step))
                continue
            self._set_aside(damaged)
            return found
        if damaged:
            raise QtxError(
                f"all checkpoints in {self.folder} are damaged ({', '.join(damaged)}): restore them from a copy, or "
                "delete the run's folder to start afresh"
            )
        return None

    def _set_aside(self, steps: list[str]) -> None:
        for name in steps if jax.process_index() == 0 else ():
            aside = self.folder.parent / DAMAGED
            aside.mkdir(exist_ok=True)
            free = (aside / f"{name}{suffix}" for suffix in ("", *(f".{i}" for i in range(1, 1000))))
            os.replace(self.folder / name, next(path for path in free if not path.exists()))
        for name in steps:
            self._scores.pop(int(name), None)
        if steps:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints set aside")
            self._manager.reload()

    def restore(self, step: int, state: Any, config: Mapping[str, Any] | None = None) -> Restored:
        """Returns a saved checkpoint, its state placed as `state` says.

        Args:
          step: a step that was saved.
          state: a tree of `jax.ShapeDtypeStruct` with shardings, which may be those of another mesh than the saved one.
          config: the config that defines the run; None: not compared.

        Raises:
          DamagedCheckpoint: if it cannot be read, or its arrays are not those that were saved.
          UnreadableCheckpoint: if it cannot be read for a reason outside of it.
          QtxError: if the checkpoint is of another model or config.
        """
        progress = self._progress(step)
        saved = progress["config"]
        differing = [*differences(saved, config), *other_contents(saved, config)] if config else []
        if differing:
            raise QtxError(f"the checkpoint {self._path(step)} is of another config: {', '.join(differing)}")
        restored = self._restore(step, state, progress["fingerprint"])
        return Restored(step, restored, progress["position"], tuple(progress["pending"]))

    def digest(self, step: int) -> str:
        """Returns the SHA-256 of a checkpoint's fingerprint; raises errors as `restore_params` does."""
        return hashlib.sha256(json.dumps(self._progress(step)["fingerprint"], sort_keys=True).encode()).hexdigest()

    def restore_params(self, step: int, params: Any, config: Mapping[str, Any] | None = None) -> Any:
        """Returns the parameters alone of a saved checkpoint.

        Args:
          step, params: as `step` and `state` of `restore`, but for the parameters alone.
          config: the run's config, whose tokenizer, data and start the checkpoint must have; None: not compared.

        Raises:
          DamagedCheckpoint, UnreadableCheckpoint, QtxError: for the reasons of `restore`.
        """
        progress = self._progress(step)
        restored = self._restore(step, {"params": params}, progress["fingerprint"], partial_restore=True)["params"]
        other = other_contents(progress["config"], config or {})
        if other:
            raise QtxError(f"the checkpoint {self._path(step)} is of another run: {', '.join(other)}; restore its own")
        return restored

    def _progress(self, step: int) -> dict[str, Any]:
        import orbax.checkpoint as ocp

        def read():
            item = ocp.args.Composite(progress=ocp.args.JsonRestore())
            return json.loads(json.dumps(self._manager.restore(step, args=item)["progress"]))

        progress = self._reading(step, read)
        try:
            found = unseal(progress if isinstance(progress, dict) else {}, self._path(step), EXPECTED)
        except QtxError as error:
            raise DamagedCheckpoint(f"the checkpoint {self._path(step)} is damaged: {error}") from None
        return {**found, "config": of_this_version(found["config"] or {})}

    def _restore(self, step: int, wanted: Any, saved: Mapping[str, int], **options: bool) -> Any:
        import orbax.checkpoint as ocp

        self._reading(step, lambda: self._check(step, wanted))
        placed = ocp.checkpoint_utils.construct_restore_args(wanted)
        item = ocp.args.PyTreeRestore(wanted, restore_args=placed, **options)
        restored = self._reading(
            step, lambda: self._manager.restore(step, args=ocp.args.Composite(state=item))["state"]
        )
        for name, checksum in fingerprint(restored).items():
            if saved.get(name) != checksum:
                raise DamagedCheckpoint(
                    f"the checkpoint {self._path(step)} is damaged: {name} is not what was saved (checksum)"
                )
        return restored

    def _reading(self, step: int, read: Callable[[], Any]) -> Any:
        """Returns what `read` returns. A damaged file makes Orbax raise what its parts raise: KeyError, TypeError,
        ValueError, json's errors ...; so does a machine in trouble. A checkpoint counts as damaged if reading fails
        twice although every file can be read and memory is not short."""
        with contextlib.suppress(Exception):
            return read()
        try:
            return read()
        except QtxError:
            raise
        except Exception as error:
            path = self._path(step)
            if trouble := machine_trouble(error, path):
                raise UnreadableCheckpoint(
                    f"cannot read the checkpoint {path}: {trouble}; it is left as it is: mend that, and the same "
                    "command goes on from it"
                ) from error
            raise DamagedCheckpoint(f"the checkpoint {path} is damaged: {_first_line(error)}") from error

    def _path(self, step: int) -> Path:
        return self.folder / str(step)

    def _check(self, step: int, wanted: Any) -> None:
        """Refuses a checkpoint whose parameters are not the wanted ones, naming the first that differs."""
        saved = _shapes(self._manager.item_metadata(step)["state"].tree, "params")
        model = _shapes(wanted, "params")
        for name in sorted(saved.keys() | model.keys()):
            if saved.get(name) != model.get(name):
                raise QtxError(
                    f"the checkpoint {self._path(step)} is of another model: parameter {name} is "
                    f"{saved.get(name, 'absent')} there and {model.get(name, 'absent')} in the config's model"
                )

    def close(self) -> None:
        """Waits for the last save, and closes the folder."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # The first of two errors is the one to tell.
        with contextlib.suppress(QtxError) if kind else contextlib.nullcontext():
            self.close()


class Restored(NamedTuple):
    """A checkpoint that was read: updates done, state, position in the data, and measurements still to be made."""

    step: int
    state: Any
    position: dict[str, Any]
    pending: tuple[str, ...]


# Errors of a missing file or folder: then the checkpoint is damaged, and the machine is not to blame.
MISSING = (errno.ENOENT, errno.ENOTDIR)
OS_ERROR = re.compile(r"OS error (\d+): ([^\]]+)")


def machine_trouble(error: BaseException | None, folder: Path) -> str | None:
    """Says why reading a folder failed if the machine is the reason and not a file: memory, input and output errors,
    permissions, too many open files, a folder that is gone; None otherwise. Storage libraries hide a system error in
    the cause or in the text of an error of their own."""
    while error is not None:
        told = OS_ERROR.search(str(error))
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            return f"out of memory ({_first_line(error)})"
        if isinstance(error, OSError) and error.errno is not None and error.errno not in MISSING:
            return str(error.strerror or error)
        if told and int(told[1]) not in MISSING:
            return told[2]
        error = error.__cause__ or error.__context__
    if not folder.is_dir():
        return "it is gone"
    try:
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    while file.read(1 << 24):
                        pass
    except OSError as unreadable:
        return f"{unreadable.filename}: {unreadable.strerror}"
    return None


@dataclasses.dataclass
class _Best:
    """A preservation policy of Orbax that keeps the steps with the `number` highest `scores`, the newer of equals."""

    scores: Mapping[int, float]
    number: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        ranked = sorted(self.scores.keys() & set(steps), key=lambda step: (self.scores[step], step), reverse=True)
        best = set(ranked[: self.number])
        return [step in best for step in steps]


def _shapes(tree: Any, item: str) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every array below `item` by its path, e.g. `"head/bias"`."""
    item_tree = tree[item] if isinstance(tree, dict) else getattr(tree, item)
    leaves = jax.tree_util.tree_leaves_with_path(item_tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:500]
