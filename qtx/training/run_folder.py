"""The folder of one training run, and the check that it belongs to the run that is started in it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from filelock import FileLock, Timeout

from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected, read_sealed_json, sealed_json, write_whole
from qtx.models import FROM_DATA, measured_by
from qtx.training.earlier import of_this_version

EXPECTED = Expected("the config of a run", "restore it, or delete the run's folder to start anew")
RECIPE = "recipe.json"

# Options that may change between a run's start and its continuation: no parameter's value depends on them.
FREE_SECTIONS = ("name", "mesh", "quantization", "compare")
FREE_TRAINING_OPTIONS = (
    "log_every",
    "eval_batches",
    "eval_every",
    "outliers_every",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_best",
    "best_metric",
    "max_bad_steps",
)
# Options that a config may leave to the data, so that they are known once the data are loaded: compared if known.
TOLD_BY_THE_DATA = (*(f"model.{name}" for name in FROM_DATA), "model.attention.length", "data.classes")
TOKENIZER_OPTIONS = ("tokenizer", "vocab_size")
IDENTITY = "identity"
CLASSES = "classes"
"""Key of a run's identity: the names of its classes in the order of their numbers, a list."""
TAKEN = "taken"
"""Key of a run's record: the choices that the config left to qtx; see `qtx.pipeline.backend`."""
BESIDE_OPTIONS = (IDENTITY, TAKEN)
# Entry of a run's identity -> its name in messages.
CONTENTS = {"tokenizer": "tokenizer", "training": "training data", "held_out": "held-out data", "start": "start"}
NOTHING: Mapping[str, str] = MappingProxyType({})


class Inside:
    """An attribute of a `RunFolder`: the path of this name in the folder."""

    def __init__(self, name: str):
        self._name = name

    def __get__(self, folder: RunFolder, owner: type[RunFolder] | None = None) -> Path:
        return folder.root / self._name


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of a run, with the paths of its files.

    Attributes:
      root: the folder.
      config: the resolved config, JSON.
      tokenizer: the tokenizer that the run was trained with, as the `tokenizers` library writes it.
      recipe: the rules of a recipe that is in no registry; see `qtx.quantization.recipes.recorded`.
      imported: the folder of an imported checkpoint, its files as they were: the run's parameters at step 0.
      checkpoints: the folder of the checkpoints, each in a folder named by its step.
      metrics: the logged metrics, JSON lines; see `qtx.training.writers`.
      tensorboard: the folder of TensorBoard's event files.
      results: the run's measurements, JSON; see `qtx.pipeline.measurements`.
      bad_steps: the folder of batches whose loss or gradient was not finite; see `qtx.training.bad_steps`.
      profile: the folder of profiler traces; see `qtx.training.profile`.
    """

    root: Path
    config = Inside("config.json")
    tokenizer = Inside("tokenizer.json")
    recipe = Inside(RECIPE)
    imported = Inside("imported")
    checkpoints = Inside("checkpoints")
    metrics = Inside("metrics.jsonl")
    tensorboard = Inside("tensorboard")
    results = Inside("results.json")
    bad_steps = Inside("bad_steps")
    profile = Inside("profile")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Creates the folder, and keeps other processes from training in it; the lock ends with the process.

        Raises:
          QtxError: if another process has the lock, or the folder cannot be written.
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

    def claim(self, config: Mapping[str, Any], files: Mapping[str, str] = NOTHING, write: bool = True) -> None:
        """Creates the folder for the run of `config`, or accepts it as that run's.

        Args:
          config: nested options of JSON types, as in `config.json`, with the run's `identity` (see
            `qtx.pipeline.identity`) when its data are loaded.
          files: name to text of the files that the run keeps besides; written when the run starts, and never again.
          write: whether this process writes (with several processes, one does).

        Raises:
          QtxError: if the folder holds a run of another config (naming the keys that differ) or of other data, or
            cannot be written.
        """
        wanted = json.loads(json.dumps(config))
        begun = self.config.exists()
        if begun:
            self.check(self.read_config(), wanted)
        if write:
            # The config comes last: a folder that has a config has all files.
            for name, text in {} if begun else files.items():
                self.write(name, text)
            self.write_config(wanted)

    def check(self, there: Mapping[str, Any], here: Mapping[str, Any], other_data: bool = False) -> None:
        """Raises QtxError unless two configs are of the same run; with `other_data`, the data may be others as long as
        the tokenizer is the same."""
        differing = differences(there, here, other_data)
        if differing:
            raise QtxError(
                f"{self.root} holds a run of another config: {', '.join(differing)}; choose another --workdir, "
                "or delete this one to start afresh"
            )
        other = other_contents(there, here)
        if other and not other_data:
            raise QtxError(
                f"{self.root} holds a run of other data or another start: the config is the same, but what it names "
                f"has another content: {', '.join(other)}; restore it, or choose another --workdir"
            )

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes config.json, with `start` relative to the folder: runs that are moved together find each other."""
        if config.get("start"):
            config = {**config, "start": os.path.relpath(config["start"], self.root)}
        self.write(self.config.name, sealed_json(config).decode())

    def write(self, name: str, text: str) -> None:
        """Writes a file of the folder, whole or not at all.

        Raises:
          QtxError: if it cannot be written.
        """
        try:
            write_whole({self.root / name: text.encode()})
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> QtxError:
        return QtxError(f"cannot write the run's folder {self.root}: {error.strerror}")

    def identity(self) -> dict[str, Any]:
        """Returns the record of what the run was made from; see `qtx.pipeline.identity`.

        Raises:
          QtxError: if there is no such record.
        """
        found = self.read_config().get(IDENTITY)
        if not isinstance(found, Mapping):
            raise QtxError(
                f"{self.config} does not say what data and tokenizer the run was trained with: use the version of qtx "
                "that trained it, or train it anew in another --workdir"
            )
        return dict(found)

    def taken(self) -> dict[str, str]:
        """Returns the choices that the config left to qtx; empty for a run that was imported and not trained."""
        return dict(self.read_config().get(TAKEN, {}))

    def read_config(self) -> dict[str, Any]:
        """Returns the folder's config, with the path `start` as seen from the current directory.

        Raises:
          QtxError: if there is no config, or it is not as it was written.
        """
        if not self.config.exists():
            raise QtxError(f"{self.root} is not a run's folder: it has no config.json")
        found = read_sealed_json(self.config, EXPECTED)
        if start := found.get("start"):
            found["start"] = os.path.normpath(self.root / start)
        return of_this_version(found)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A `Claim` says which run a folder is to be the folder of; see `RunFolder.claim`.

    Attributes:
      folder: the run's folder; created if absent.
      config: the config that defines the run, of JSON types; kept in the folder and in each checkpoint, and compared
        when the run goes on.
      files: the files that the folder keeps from the start, name to text.
    """

    folder: RunFolder
    config: Mapping[str, Any]
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)


def differences(there: Mapping[str, Any], here: Mapping[str, Any], other_data: bool = False) -> list[str]:
    """Returns the options in which two configs describe different runs, as dotted keys with both values. Options that
    `here` still leaves to the data do not count, nor where a start lies, whose content `other_contents` compares. With
    `other_data`, of the section `data` only the tokenizer's options count."""
    old, new = _flatten(_without_idle(there)), _flatten(_without_idle(here))
    found = []
    for key in sorted(old.keys() | new.keys()):
        section, _, option = key.partition(".")
        free = section in (*FREE_SECTIONS, *BESIDE_OPTIONS)
        free = free or (section == "training" and option in FREE_TRAINING_OPTIONS)
        free = free or (section == "model" and option in measured_by(new.get("model.modules", "")))
        free = free or (other_data and section == "data" and option not in TOKENIZER_OPTIONS)
        open_yet = key in TOLD_BY_THE_DATA and new.get(key) is None
        before, now = old.get(key), new.get(key)
        moved = key == "start" and before and now
        if not (free or open_yet or moved or before == now):
            texts = (str(options[key]) if key in options else "absent" for options in (old, new))
            found.append("{} ({} there, {} here)".format(key, *texts))
    return found


def other_contents(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Returns the parts in which two runs' identities (see `qtx.pipeline.identity`) differ, with the first digits of
    both digests; nothing if `here` has no identity yet."""
    old, new = there.get(IDENTITY, {}), here.get(IDENTITY)
    if new is None:
        return []
    # Measuring a run does not read its start: that is compared if both have it.
    compared = [part for part in CONTENTS if part != "start" or ("start" in old and "start" in new)]
    return [
        f"{CONTENTS[part]} (SHA-256 {str(old.get(part, 'none'))[:12]} there, {str(new.get(part, 'none'))[:12]} here)"
        for part in compared
        if old.get(part) != new.get(part)
    ]


def _without_idle(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config without an empty `start`, and without the section `qat` if it has neither scheme nor noise: they
    then say nothing."""
    qat = config.get("qat", {})
    idle = {"start": not config.get("start"), "qat": not (qat.get("scheme") or qat.get("noise"))}
    return {name: value for name, value in config.items() if not idle.get(name, False)}


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            # A record has lists where options have tuples.
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
