"""The `qtx` command: its commands, their help, and how errors are told.

Nothing here imports jax until a command runs, so that help and mistakes on the command line are told at once.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from qtx import __version__
from qtx.errors import QtxError, lookup

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@dataclasses.dataclass(frozen=True)
class Command:
    """One command: what its help says, and the function of `qtx.commands` that runs it."""

    summary: str
    description: str
    example: str
    config: str  # "required", "optional" (the run's own record otherwise) or "none"
    resume: str  # what the user does after an interruption


COMMANDS = {
    "train": Command(
        summary="pre-train one model, or resume its training",
        description="Trains the config's model on its data. The folder gets the resolved config, metrics (JSON lines\n"
        "and TensorBoard), checkpoints, and the tokenizer. Run again, the same command goes on from the last\n"
        "checkpoint and ends with the same numbers as a run that was never interrupted.",
        example="qtx train --config=configs/demo.py:gated_linear --workdir=runs/gated --config.training.steps=500",
        config="required",
        resume="the same command resumes from the last checkpoint",
    ),
    "evaluate": Command(
        summary="measure a trained model: loss, metric, outliers",
        description="Evaluates the folder's last checkpoint on held-out data in floating point: perplexity or\n"
        "accuracy, infinity norm, kurtosis, 6-sigma outliers, attention-sink mass. Writes results.json.",
        example="qtx evaluate --workdir=runs/gated",
        config="optional",
        resume="the same command starts over",
    ),
    "quantize": Command(
        summary="quantize a trained model and measure what it costs",
        description="Calibrates static activation ranges on training data, quantizes to every scheme of the config\n"
        "(weight and activation bits, e.g. w8a8) and evaluates each on held-out data, beside floating point.\n"
        "Saves the ranges as ranges/<scheme>.safetensors.",
        example="qtx quantize --workdir=runs/gated --config.quantization.schemes=\"('w8a8', 'w4a8')\"",
        config="optional",
        resume="the same command starts over",
    ),
    "compare": Command(
        summary="train, quantize and compare attention variants over seeds",
        description="Does all of the above for every variant x seed of config.compare, each in its own folder below\n"
        "WORKDIR/runs; finished runs are not run again. Writes results.jsonl, table.md (mean and standard\n"
        "deviation over seeds) and report.html. A variant may carry options: 'clipped_softmax,alpha=4'.",
        example='qtx compare --config=configs/demo.py --workdir=runs/demo --config.compare.seeds="(0, 1)"',
        config="required",
        resume="the same command goes on with what is not finished",
    ),
    "report": Command(
        summary="write a comparison's table and HTML report again",
        description="Rebuilds table.md and report.html from the results in a comparison's folder, finished or not.",
        example="qtx report --workdir=runs/demo",
        config="none",
        resume="the same command starts over",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line (default: the process's, without the program's name) and returns the exit code.

    A mistake of the user's is told in one line on stderr, with exit code 2. Anything else that fails is a bug or the
    machine's trouble and keeps its traceback.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    resume = ""
    try:
        if not arguments or arguments[0] in ("help", "--help", "-h", "-help"):
            topic = arguments[1:2] if arguments[:1] == ["help"] else []
            print(command_help(topic[0]) if topic else program_help())
            return 0
        if arguments[0] == "--version":
            print(f"qtx {__version__}")
            return 0
        name, *rest = arguments
        if name.startswith("-"):
            raise QtxError(f"the first argument is a command ({', '.join(COMMANDS)}), then its flags; got {name!r}")
        command = lookup(COMMANDS, "command", name)
        if any(argument in ("--help", "-h", "-help") for argument in rest):
            print(command_help(name))
            return 0
        resume = f": {command.resume}"
        runner(name, command, rest)()
    except QtxError as error:
        print(f"qtx: error: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(f"\nqtx: interrupted{resume}", file=sys.stderr)
        return INTERRUPTED
    return 0


def runner(name: str, command: Command, arguments: Sequence[str]) -> Callable[[], None]:
    """The command, ready to run: its flags parsed, its config read and checked."""
    from qtx.flags import parse

    config, workdir = parse(arguments, of_run=command.config == "optional")
    if config is None and command.config == "required":
        raise QtxError(f"{name} needs --config=FILE, e.g. {command.example}")
    if workdir is None:
        raise QtxError(f"{name} needs --workdir=FOLDER, e.g. {command.example}")
    if workdir.exists() and not workdir.is_dir():
        raise QtxError(f"--workdir={workdir} is a file: expected a folder")
    if config is not None and command.config == "none":
        raise QtxError(f"{name} takes no --config: it reads what the folder holds")
    return lambda: _run(name, config, workdir)


def _run(name: str, config, workdir: Path) -> None:
    from qtx import commands
    from qtx.experiment import read

    function = getattr(commands, name)
    if config is None:
        function(workdir)
    else:
        function(read(config), workdir)


def program_help() -> str:
    """What `qtx --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "qtx: pre-train transformers that survive integer quantization.",
            "",
            "usage: qtx COMMAND --config=FILE --workdir=FOLDER [--config.KEY=VALUE ...]",
            "",
            *lines,
            "",
            "example: qtx compare --config=configs/demo.py --workdir=runs/demo",
            "",
            "`qtx COMMAND --help` says more about one; `python -m qtx` is the same program.",
        ]
    )


def command_help(name: str) -> str:
    """What `qtx COMMAND --help` prints."""
    command = lookup(COMMANDS, "command", name)
    config_flags = {
        "required": "  --config=FILE[:VARIANT]  the experiment, e.g. configs/demo.py; most take an attention variant\n",
        "optional": "  --config=FILE[:VARIANT]  the experiment (default: the config that the run recorded)\n",
        "none": "",
    }[command.config]
    overrides = (
        "  --config.KEY=VALUE       overrides one value, e.g. --config.training.steps=500\n" if config_flags else ""
    )
    usage = {"required": " --config=FILE", "optional": " [--config=FILE]", "none": ""}[command.config]
    return (
        f"qtx {name}: {command.summary}.\n\n"
        f"usage: qtx {name}{usage} --workdir=FOLDER{' [--config.KEY=VALUE ...]' if config_flags else ''}\n\n"
        f"{command.description}\n\n"
        f"flags:\n{config_flags}  --workdir=FOLDER         the run's folder\n{overrides}"
        f"\nexample:\n  {command.example}"
    )
