"""The command line's flags: the config file that `--config` names, with its overrides, and `--workdir`.

absl and `ml_collections.config_flags` do the parsing. Each call has a registry of flags of its own, so that a process
can parse any number of command lines. Every mistake becomes a one-line `QtxError`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from qtx.cli.command_table import FLAGS
from qtx.foundation.errors import QtxError, one_line
from qtx.foundation.paths import at_home
from qtx.pipeline.config_files import ATTENTION, check_key, load_config_file, load_run_config, override, run_of

USAGE = {"config": "--config=FILE", "workdir": "--workdir=FOLDER", **{name: flag.usage for name, flag in FLAGS.items()}}
OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")
UNDECODED = re.compile("[\udc80-\udcff]")
"""Bytes of the command line that are no text in the locale's encoding, as Python keeps them."""


def parse(
    arguments: Sequence[str], of_run: bool = False, base: ConfigDict | None = None
) -> tuple[ConfigDict | None, Path | None]:
    """Returns the config, overridden, and the working folder that a command's arguments name.

    Args:
      arguments: what follows the command, e.g. `["--config=configs/demo.py", "--workdir=runs/x", "--config.seed=1"]`.
      of_run: whether to take, without `--config`, the config that the run in the working folder recorded.
      base: the config to take without `--config`, for a command that makes its own; None: no such config.

    Returns:
      the locked config (None without `--config`, `of_run` and `base`) and the folder (None without `--workdir`).

    Raises:
      QtxError: for an unknown flag or key, a value of the wrong type, or a config file that cannot be used.
    """
    config_path, rest = take_flag(arguments, "config")
    workdir, rest = take_flag(rest, "workdir")
    folder, named = at_home(workdir) if workdir else None, overridden(rest)
    if config_path is not None:
        config = load_config_file(config_path)
    elif base is not None:
        config = base
    elif of_run and folder:
        config = load_run_config(folder, named.values())
    elif named:
        raise QtxError(f"{next(iter(named))} overrides a config, but there is no --config=FILE")
    else:
        config = ConfigDict()
    for argument, key in named.items():
        if UNDECODED.search(argument):
            encoding = sys.getfilesystemencoding()
            raise QtxError(f"{argument!a} has what is no text in {encoding}: set PYTHONUTF8=1, or rename the file")
        check_key(config, key)
    applied = apply_beyond_flags(config, named)
    rest = ["qtx", *(argument for argument in rest if argument not in applied)]
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    # --workdir was taken above; defined here, it is suggested for a misspelt one.
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=rest)
        extra = values(rest)[1:]
    except (flags.Error, KeyError, TypeError, ValueError) as error:
        raise QtxError(one_line(error)) from None
    if extra:
        raise QtxError(f"unexpected argument {extra[0]!r}: flags are written --name=value")
    if not (config_path or of_run or base):
        return None, folder
    chosen: ConfigDict = values["config"].value
    if config_path and chosen.get("start"):
        from qtx.pipeline.inheritance import inheriting  # imports jax

        chosen.start = run_of(chosen.start, folder)
        chosen = inheriting(chosen, named.values())
    return chosen, folder


def take_flag(arguments: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """Returns the value of the last `--name=value` or `--name value` (None without one), and the other arguments."""
    value, rest, left = None, [], list(arguments)
    while left:
        argument = left.pop(0)
        flag, equals, text = argument.partition("=")
        if flag not in (f"--{name}", f"-{name}"):
            rest.append(argument)
            continue
        value = text if equals else (left.pop(0) if left else "")
        if not value:
            raise QtxError(f"--{name} has no value: write {USAGE[name]}")
    return value, rest


def take_switch(arguments: Sequence[str], name: str) -> tuple[bool, list[str]]:
    """Says whether `--name` is among the arguments, and returns the other arguments."""
    given = (f"--{name}", f"-{name}")
    return any(argument in given for argument in arguments), [other for other in arguments if other not in given]


def overridden(arguments: Sequence[str]) -> dict[str, str]:
    """Returns the arguments that override a config, each with the dotted key that it overrides."""
    return {argument: match[1] for argument in arguments if (match := OVERRIDE.match(argument))}


def names(arguments: Sequence[str], key: str) -> bool:
    """Says whether a command's arguments override `key`, or any key below it if it ends with a dot, e.g. `"data."`."""
    return any(name == key or (key.endswith(".") and name.startswith(key)) for name in overridden(arguments).values())


def apply_beyond_flags(config: ConfigDict, named: Mapping[str, str]) -> list[str]:
    """Overrides a config by those of the `overridden` arguments that absl's flags cannot apply, and returns these: the
    attention by the text of a variant, and options that become None."""
    texts = {argument: argument.partition("=")[2] for argument in named}
    attention = [argument for argument in named if named[argument] == ATTENTION]
    unset = [argument for argument in named if texts[argument] == "None" and argument not in attention]
    for argument in [*attention, *unset]:
        override(config, {named[argument]: texts[argument] if argument in attention else None})
    return [*attention, *unset]
