"""Checkpoints of a run: the training state and the position in the data. The only module that knows Orbax.

A checkpoint is written beside the others under a temporary name and renamed when complete: a run killed while saving
has its previous checkpoint, and the incomplete one is removed when the run goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grain.checkpoint as grain_checkpoint
import jax
import orbax.checkpoint as ocp

from qtx.errors import QtxError


class Checkpoints:
    """The checkpoints in a folder; use it in `with`, which waits for the last save.

    Args:
      folder: created if absent.
      keep: how many of the newest stay; None: all (for reading).
    """

    def __init__(self, folder: Path, keep: int | None = None):
        self.folder = Path(folder).absolute()
        # Handlers are named because a manager that has not saved yet cannot tell what a checkpoint's items are.
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=keep is not None),
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(),
                "iterator": grain_checkpoint.CheckpointHandler(),
            },
        )

    def latest_step(self) -> int | None:
        """Updates done at the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, iterator: Any) -> None:
        """Copies the state and the Grain iterator's position, and writes them in the background.

        Raises:
          QtxError: if this save, or the one before it, cannot be written.
        """
        position = grain_checkpoint.CheckpointSave(iterator)
        try:
            self._manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(state), iterator=position))
        except OSError as error:
            raise _write_error(self.folder, error) from error

    def wait(self) -> None:
        """Returns when all saves are on disk.

        Raises:
          QtxError: if one cannot be written.
        """
        try:
            self._manager.wait_until_finished()
        except OSError as error:
            raise _write_error(self.folder, error) from error

    def restore(self, step: int, state: Any, iterator: Any) -> Any:
        """The saved state, placed as `state` says; moves `iterator` to the saved position.

        Args:
          step: a step that was saved.
          state: a tree of `jax.ShapeDtypeStruct` with shardings, which may be those of another mesh than the saved one.
          iterator: of the same data as the saved one.

        Raises:
          QtxError: if the checkpoint is of another model.
        """
        self._check(step, state)
        items = ocp.args.Composite(state=_restore_args(state), iterator=grain_checkpoint.CheckpointRestore(iterator))
        return self._manager.restore(step, args=items)["state"]

    def restore_params(self, step: int, params: Any) -> Any:
        """The saved parameters alone, placed as `params`, a tree of `jax.ShapeDtypeStruct` with shardings, says.

        Raises:
          QtxError: if the checkpoint is of another model.
        """
        self._check(step, {"params": params})
        items = ocp.args.Composite(state=_restore_args({"params": params}, partial_restore=True))
        return self._manager.restore(step, args=items)["state"]["params"]

    def _check(self, step: int, wanted: Any) -> None:
        """Refuses a checkpoint whose parameters are not the wanted ones, naming the first that differs."""
        saved = _shapes(self._manager.item_metadata(step)["state"].tree, "params")
        model = _shapes(wanted, "params")
        for name in sorted(saved.keys() | model.keys()):
            if saved.get(name) != model.get(name):
                raise QtxError(
                    f"the checkpoint {self.folder / str(step)} is of another model: parameter {name} is "
                    f"{saved.get(name, 'absent')} there and {model.get(name, 'absent')} in the config's model"
                )

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _restore_args(tree: Any, **options: bool) -> ocp.args.PyTreeRestore:
    placed = ocp.checkpoint_utils.construct_restore_args(tree)
    return ocp.args.PyTreeRestore(tree, restore_args=placed, **options)


def _shapes(tree: Any, item: str) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every array below `item`, e.g. `"head/bias"`."""
    item_tree = tree[item] if isinstance(tree, dict) else getattr(tree, item)
    leaves = jax.tree_util.tree_leaves_with_path(item_tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def _write_error(folder: Path, error: OSError) -> QtxError:
    return QtxError(f"cannot write a checkpoint to {folder}: {error}; the previous checkpoint is intact")
