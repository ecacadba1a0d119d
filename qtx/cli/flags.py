"""The command line's flags: the config file that `--config` names, with its overrides, and `--workdir`.

absl and `ml_collections.config_flags` do the parsing. Each call has a registry of flags of its own, so that a process
can parse any number of command lines. Every mistake becomes a one-line `QtxError`.
"""

from __future__ import annotations

import functools
import inspect
import operator
import os
import re
import sys
import traceback
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from qtx.cli.command_table import FLAGS
from qtx.foundation.errors import QtxError, lookup, one_line, unknown
from qtx.foundation.paths import at_home
from qtx.foundation.run_file import run_file

SHIPPED_CONFIGS = Path(__file__).parents[1] / "configs"
"""The folder of the configs that come with qtx: in a clone a link to `configs/`, in a wheel a real folder."""
USAGE = {"config": "--config=FILE", "workdir": "--workdir=FOLDER", **{name: flag.usage for name, flag in FLAGS.items()}}
ATTENTION = "model.attention"
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


def run_of(start: str, workdir: Path | None) -> str:
    """Returns the folder of the run that `config.start` names. A built-in checkpoint, `builtin:NAME`, means the run
    NAME beside `workdir` (in `runs` without one), which is imported if it is not there."""
    from qtx.experiment import read
    from qtx.interop.contents import digest_of_folder
    from qtx.pipeline.importing import BUILTIN, config_of_checkpoint, found, import_run
    from qtx.training import RunFolder

    if not start.startswith(BUILTIN):
        return str(at_home(start))
    checkpoint = found(start)
    beside = Path("runs", "any") if workdir is None else workdir
    folder = Path(os.path.normpath(beside / ".." / checkpoint.folder.name))
    if not folder.exists():
        import_run(read(config_of_checkpoint(checkpoint)), folder, checkpoint)
    elif RunFolder(folder).identity().get("imported") != digest_of_folder(checkpoint.folder):
        raise QtxError(f"config.start={start}: {folder} holds another run: give the folder of that checkpoint's run")
    return str(folder)


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
    attention by the text of a variant, then options that become None."""
    texts = {argument: argument.partition("=")[2] for argument in named}
    attention = [argument for argument in named if named[argument] == ATTENTION]
    for argument in attention:
        from qtx.attention import attention_variant  # imports jax
        from qtx.foundation.config import section

        config.model.attention = section(attention_variant(texts[argument]))
    unset = [argument for argument in named if texts[argument] == "None" and argument not in attention]
    for argument in unset:
        *sections, name = named[argument].split(".")
        functools.reduce(operator.getitem, sections, config)[name] = None
    return [*attention, *unset]


def check_key(config: ConfigDict, path: str) -> None:
    """Raises the error that names the nearest key if `path`, e.g. `"model.width"`, is not in the config."""
    where, section = "config", config
    for name in path.split("."):
        if not isinstance(section, ConfigDict):
            raise QtxError(f"{where} is a value, not a section: --config.{path} goes one level too deep")
        if name not in section:
            raise unknown(f"key in {where}:", name, section.keys())
        where, section = f"{where}.{name}", section[name]


def config_file(name: str) -> Path:
    """Returns the file with this path or, if there is none, the config that comes with qtx by that name, e.g. `"demo"`.

    Raises:
      QtxError: if there is neither; the message names the nearest.
    """
    file = at_home(name)
    if file.is_file():
        return file
    shipped = {config.stem: config for config in SHIPPED_CONFIGS.glob("*.py")}
    if name in shipped or (name == file.stem and not file.exists()):
        return lookup(shipped, "config file or shipped config", name)
    kind = "is a folder" if file.is_dir() else "not found"
    near = [str(other) for other in file.parent.glob("*.py")]
    hint = str(unknown("config file", name, near)).partition(": ")[2] if near and kind == "not found" else ""
    raise QtxError(f"config file {name} {kind}" + (f": {hint}" if hint else ""))


def load_config_file(path: str) -> ConfigDict:
    """Returns what a file's `get_config()` returns, or `get_config("text")` for `"file.py:text"`; with `:smoke` after
    either, that experiment as a smoke test. The file may be the name of a config that comes with qtx, e.g. `"demo"`.

    Raises:
      QtxError: if the file is missing or has an error in its own lines (told with the line).
    """
    full_size = path.removesuffix(":smoke")
    filename, _, variant = full_size.partition(":")
    file = config_file(filename)
    try:
        get_config = run_file(file).get("get_config")
        if get_config is None:
            raise QtxError(f"{filename} has no get_config(): expected `def get_config(variant='softmax')`")
        if variant and not inspect.signature(get_config).parameters:
            raise QtxError(f"{filename}: get_config() takes no argument, but --config={path} gives {variant!r}")
        config = get_config(variant) if variant else get_config()
    except QtxError:
        raise
    except SyntaxError as error:
        raise QtxError(f"{error.filename}, line {error.lineno}: {error.msg}") from None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if Path(frame.filename) == file]
        if not own or not (frames[-1] is own[-1] or "ml_collections" in frames[-1].filename):
            raise
        kind = "" if isinstance(error, (AttributeError, KeyError)) else f"{type(error).__name__}: "
        raise QtxError(f"{filename}, line {own[-1].lineno} ({own[-1].line}): {kind}{one_line(error)}") from None
    if not isinstance(config, ConfigDict):
        raise QtxError(f"{filename}: get_config() returned {type(config).__name__}, expected a ConfigDict")
    if full_size == path:
        return config.lock()
    from qtx.pipeline.smoke import smoke  # imports jax

    return smoke(config)


def load_run_config(workdir: Path, overridden: Container[str] = ()) -> ConfigDict:
    """Returns the config that an earlier run recorded in its folder, for measuring that run on any data.

    Args:
      workdir: the run's folder.
      overridden: dotted keys that the command line gives. If `data.source` is among them, the options of the run's own
        source are reset, but for those that make an example of a record (`EXAMPLE_OPTIONS`).

    Raises:
      QtxError: if the folder holds no run, or its record cannot be read.
    """
    from qtx.data.config import EXAMPLE_OPTIONS  # imports jax
    from qtx.experiment import recorded

    config = recorded(workdir)
    if "data.source" in overridden:
        for option in set(config.data) - {"source", *EXAMPLE_OPTIONS}:
            config.data[option] = None
    return config
