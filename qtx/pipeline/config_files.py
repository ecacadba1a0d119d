"""Configs by name: those in files, those that come with qtx, those that runs recorded, and their overriding.

Nothing here imports jax until a config is read, so that a mistake in a name is told at once.
"""

from __future__ import annotations

import functools
import inspect
import operator
import os
import traceback
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from qtx.foundation.errors import QtxError, lookup, one_line, unknown
from qtx.foundation.paths import at_home
from qtx.foundation.run_file import run_file

SHIPPED_CONFIGS = Path(__file__).parents[1] / "configs"
"""The folder of the configs that come with qtx: in a clone a link to `configs/`, in a wheel a real folder."""
ATTENTION = "model.attention"


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


def override(config: ConfigDict, options: Mapping[str, Any]) -> None:
    """Overrides values of a config by their dotted keys, e.g. `{"data.sequence_length": 64}`; the attention may be the
    text of a variant.

    Raises:
      QtxError: for an unknown key, or a value of the wrong type.
    """
    for key, value in options.items():
        check_key(config, key)
        if key == ATTENTION and isinstance(value, str):
            from qtx.attention import attention_variant  # imports jax
            from qtx.foundation.config import section

            value = section(attention_variant(value))
        *sections, name = key.split(".")
        try:
            functools.reduce(operator.getitem, sections, config)[name] = value
        except (TypeError, ValueError) as error:
            raise QtxError(f"config.{key}={value!r}: {one_line(error)}") from None


def check_key(config: ConfigDict, path: str) -> None:
    """Raises the error that names the nearest key if `path`, e.g. `"model.width"`, is not in the config."""
    where, section = "config", config
    for name in path.split("."):
        if not isinstance(section, ConfigDict):
            raise QtxError(f"{where} is a value, not a section: --config.{path} goes one level too deep")
        if name not in section:
            raise unknown(f"key in {where}:", name, section.keys())
        where, section = f"{where}.{name}", section[name]


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
