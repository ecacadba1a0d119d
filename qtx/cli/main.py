"""The `qtx` command: it runs one command line, and tells errors in one line.

Nothing here imports jax until a command runs, so that help and mistakes on the command line are told at once.
"""

from __future__ import annotations

import atexit
import gc
import keyword
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qtx import __version__
from qtx.cli.command_table import COMMANDS
from qtx.cli.cpu_memory import keep_freed_memory
from qtx.cli.environment import settle, why_jax_fails
from qtx.cli.help import command_help, program_help
from qtx.foundation.errors import Preempted, QtxError, lookup
from qtx.foundation.output import show, show_all_characters

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line (default: the process's, without the program's name) and returns the exit code.

    A user's mistake, a file that cannot be written or a bad environment is told in one line on stderr, with exit code
    2. Anything else that fails is a bug or the machine's trouble and keeps its traceback.
    """
    if arguments is None:
        own_process()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    resume = ""
    try:
        if not arguments or arguments[0] in ("help", "--help", "-h", "-help"):
            topic = arguments[1:2] if arguments[:1] == ["help"] else []
            show(command_help(topic[0]) if topic else program_help())
            return 0
        if arguments[0] == "--version":
            show(f"qtx {__version__}")
            return 0
        name, *rest = arguments
        if name.startswith("-"):
            raise QtxError(f"the first argument is a command ({', '.join(COMMANDS)}), then its flags; got {name!r}")
        command = lookup(COMMANDS, "command", name)
        if any(argument in ("--help", "-h", "-help") for argument in rest):
            show(command_help(name))
            return 0
        from qtx.cli.command_line import read_arguments  # takes time, and with a config imports jax

        resume = f": {command.resume}"
        run(name, *read_arguments(name, command, rest))
    except QtxError as error:
        print(f"qtx: error: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    except OSError as error:
        if error.filename is None:
            raise
        print(f"qtx: error: {error.filename}: {error.strerror}: make room for it, or choose another", file=sys.stderr)
        return USAGE_ERROR
    except Preempted as request:
        print(f"qtx: {request}{resume}", file=sys.stderr)
        return 0
    except KeyboardInterrupt:
        print(f"\nqtx: interrupted{resume}", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        problem = why_jax_fails()
        if problem is None:
            raise
        print(f"qtx: error: {problem}", file=sys.stderr)
        return USAGE_ERROR
    return 0


def own_process() -> None:
    """Sets up a process that does nothing but run commands, before jax is imported."""
    show_all_characters()
    settle()
    keep_freed_memory()
    gc.disable()  # until a command runs: imported objects are never garbage
    atexit.register(gc.freeze)  # at the end all memory goes with the process, without a search for garbage


def run(name: str, config: Any, workdir: Path | None, chosen: dict[str, Any]) -> None:
    """Runs a command on its config and folder, if it has them, with its other flags."""
    from qtx.cli import commands
    from qtx.cli.compilation_cache import keep_compiled_programs
    from qtx.experiment import read

    keep_compiled_programs()
    if not gc.isenabled():
        # Otherwise a hundred thousand objects of libraries would be searched for garbage again and again.
        gc.freeze()
        gc.enable()
    # Storage libraries log an error each in its own way, with a traceback; the command tells the same in one line.
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    function = getattr(commands, f"{name}_" if keyword.iskeyword(name) else name)
    experiment = () if config is None else (read(config),)
    folder = () if workdir is None else (workdir,)
    function(*experiment, *folder, **chosen)
