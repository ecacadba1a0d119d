"""The folder of one training run, and the check that it belongs to the run that is started in it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from qtx.errors import QtxError

# What may change between a run's start and its continuation: nothing that a parameter's value depends on.
FREE_SECTIONS = ("name", "mesh", "quantization", "compare")
FREE_TRAINING_OPTIONS = (
    "log_every",
    "eval_every",
    "outliers_every",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_best",
    "best_metric",
    "max_bad_steps",
)


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved config, JSON."""
        return self.root / "config.json"

    @property
    def metrics(self) -> Path:
        """JSON lines; see `qtx.training.writers`."""
        return self.root / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def bad_steps(self) -> Path:
        """Batches whose loss or gradient was not finite; see `qtx.training.bad_steps`."""
        return self.root / "bad_steps"

    @property
    def profile(self) -> Path:
        """Profiler traces; see `qtx.training.profile`."""
        return self.root / "profile"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Creates the folder, and keeps other processes from training in it; the lock goes with the process.

        Raises:
          QtxError: if another process has it, or the folder cannot be written.
        """
        lock = FileLock(self.root / ".lock")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise QtxError(
                f"another process is training in {self.root}: wait for it, stop it, or choose another --workdir"
            ) from None
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            yield
        finally:
            lock.release()

    def claim(self, config: Mapping[str, Any], write: bool = True) -> None:
        """Creates the folder for the run of `config`, or accepts it as that run's.

        Args:
          config: nested options of JSON types, as in `config.json`.
          write: whether this process writes the file (with several processes, one does).

        Raises:
          QtxError: if the folder holds a run of another config (naming the keys that differ) or cannot be written.
        """
        wanted = json.loads(json.dumps(config))
        if self.config.exists():
            differing = differences(self.read_config(), wanted)
            if differing:
                raise QtxError(
                    f"{self.root} holds a run of another config: {', '.join(differing)}; choose another --workdir, "
                    "or delete this one to start afresh"
                )
        if not write:
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            temporary = self.config.with_suffix(".json.new")
            temporary.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
            os.replace(temporary, self.config)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> QtxError:
        return QtxError(f"cannot write the run's folder {self.root}: {error.strerror}")

    def read_config(self) -> dict[str, Any]:
        """The folder's config.

        Raises:
          QtxError: if there is none, or it is not JSON.
        """
        try:
            return json.loads(self.config.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise QtxError(f"{self.root} is not a run's folder: it has no config.json") from None
        except ValueError:
            raise QtxError(f"{self.config} is not JSON: restore it, or delete the run's folder to start anew") from None


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The options, by dotted key, in which two configs describe different runs, with both values."""
    old, new = _flatten(_without_idle_qat(there)), _flatten(_without_idle_qat(here))
    absent = object()
    found = []
    for key in sorted(old.keys() | new.keys()):
        section, _, option = key.partition(".")
        free = section in FREE_SECTIONS or (section == "training" and option in FREE_TRAINING_OPTIONS)
        if not free and old.get(key, absent) != new.get(key, absent):
            found.append(f"{key} ({old.get(key, 'absent')} there, {new.get(key, 'absent')} here)")
    return found


def _without_idle_qat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without the section `qat` if that has no start: it then says nothing, and older runs have none."""
    idle = not config.get("qat", {}).get("start")
    return {name: value for name, value in config.items() if not (idle and name == "qat")}


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
