"""This module reads the arguments of a command: its flags, its config and its folder, checked against what it takes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from qtx.cli.command_table import FLAGS, Command
from qtx.cli.flags import names, parse, take_flag, take_switch
from qtx.foundation.errors import QtxError
from qtx.foundation.paths import at_home


def read_arguments(
    name: str, command: Command, arguments: Sequence[str]
) -> tuple[ConfigDict | None, Path | None, dict[str, Any]]:
    """Returns a command's config and folder, each None if the command has none, and its other flags by name.

    Raises:
      QtxError: if the command does not take an argument, or lacks one.
    """
    given = arguments
    chosen, arguments = take_flags(command, arguments)
    if command.choice is not None and command.choice not in chosen:
        raise QtxError(f"{name} needs {FLAGS[command.choice].usage}: {FLAGS[command.choice].help}")
    if "out" in chosen:
        chosen["out"] = place_for_healing(chosen["out"])
    checkpoint, arguments = take_argument(arguments, name, command) if command.checkpoint else (None, arguments)
    of_run = command.config == "optional"
    if checkpoint is not None and command.own_folder:
        checkpoint, arguments = with_folder(checkpoint, arguments)
        of_run = checkpoint is None
    base = None
    if checkpoint is not None:
        from qtx.pipeline.analyze import is_run  # imports jax
        from qtx.pipeline.importing import check_attention_length, config_of_checkpoint, found
        from qtx.pipeline.patient import patient_at, patient_config

        other_data = names(arguments, "data.source")
        if command.heals and is_run(at_home(checkpoint)):
            chosen["source"], base = patient_at(at_home(checkpoint), chosen["out"] / "run", other_data)
        else:
            chosen["source"] = found(checkpoint)
            base = config_of_checkpoint(chosen["source"], other_data)
        if command.heals:
            base, chosen["command"] = patient_config(base), shlex.join(["qtx", name, *given])
    config, workdir = parse(arguments, of_run=of_run, base=base)
    if base is not None:
        check_attention_length(config)
    if of_run:
        chosen["names_data"] = names(arguments, "data.")
    if command.one_scheme:
        chosen["names_scheme"] = names(arguments, "quantization.schemes")
    if config is None and command.config == "required":
        raise QtxError(f"{name} needs --config=FILE, e.g. {command.example}")
    if workdir is not None and not command.workdir:
        raise QtxError(f"{name} takes no --workdir: it makes no run")
    if workdir is None and command.workdir:
        raise QtxError(f"{name} needs --workdir=FOLDER, e.g. {command.example}")
    if workdir is not None and workdir.exists() and not workdir.is_dir():
        raise QtxError(f"--workdir={workdir} is a file: expected a folder")
    if config is not None and command.config == "none" and base is None and not of_run:
        raise QtxError(f"{name} takes no --config: it reads what the folder holds")
    return config, workdir, chosen


def place_for_healing(out: str) -> Path:
    """Returns the folder that `--out` names. Raises QtxError if the folder is there, with other things in it."""
    folder = at_home(out)
    if folder.exists() and not (folder.is_dir() and ((folder / "run").is_dir() or not any(folder.iterdir()))):
        raise QtxError(f"--out={folder} is there, and holds no healing: choose another")
    return folder


def take_flags(command: Command, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the values of a command's own flags by name, and the other arguments; a flag that is short for a value of
    the config becomes one of these."""
    chosen: dict[str, Any] = {}
    rest = list(arguments)
    for name in command.flags:
        flag = FLAGS[name]
        if flag.switch:
            chosen[name], rest = take_switch(rest, name)
            continue
        value, rest = take_flag(rest, name)
        if value is not None and flag.override:
            rest += [f"--config.{override.format(value)}" for override in flag.override]
        elif value is not None:
            chosen[name] = value
    return chosen, rest


def take_argument(arguments: Sequence[str], name: str, command: Command) -> tuple[str, list[str]]:
    """Returns the first argument that is neither a flag nor may be a flag's value, as in `--workdir FOLDER`, else the
    first that is no flag; and the other arguments.

    Raises:
      QtxError: if all are flags.
    """
    places = [i for i, argument in enumerate(arguments) if not argument.startswith("-")]
    alone = [i for i in places if i == 0 or not arguments[i - 1].startswith("-") or "=" in arguments[i - 1]]
    if not places:
        raise QtxError(f"{name} needs a checkpoint, e.g. {command.example}")
    place = (alone or places)[0]
    return arguments[place], [*arguments[:place], *arguments[place + 1 :]]


def with_folder(checkpoint: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """Returns the checkpoint, or None if it is a run's own folder, and the other arguments with `--workdir`.

    Raises:
      QtxError: if `--workdir` is given beside a run's own folder.
    """
    from qtx.pipeline.analyze import folder_for, is_run  # imports jax

    workdir, rest = take_flag(arguments, "workdir")
    if not is_run(at_home(checkpoint)):
        return checkpoint, [*rest, f"--workdir={workdir or folder_for(checkpoint)}"]
    if workdir is not None:
        raise QtxError(f"{checkpoint} is a run's folder, and the run stays there: leave --workdir out")
    return None, [*rest, f"--workdir={checkpoint}"]
