"""The `qtx` command: its commands, their help, and how errors are told.

Nothing here imports jax until a command runs, so that help and mistakes on the command line are told at once.
"""

from __future__ import annotations

import atexit
import dataclasses
import gc
import keyword
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qtx import __version__
from qtx.cli.cpu_memory import keep_freed_memory
from qtx.cli.environment import settle, why_jax_fails
from qtx.foundation.errors import Preempted, QtxError, lookup
from qtx.foundation.output import show, show_all_characters
from qtx.foundation.paths import at_home

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@dataclasses.dataclass(frozen=True)
class Command:
    """One command: what its help says, and what it takes. The function of its name in `qtx.cli.commands` runs it."""

    summary: str
    description: str
    example: str
    config: str  # --config is "required", "optional" (default: what the run recorded) or "none"
    resume: str  # what the user does after an interruption
    flags: tuple[str, ...] = ()  # names in `FLAGS`
    choice: str | None = None  # the one of `flags` that must be given
    workdir: bool = True  # whether the command works in a folder, --workdir
    one_scheme: bool = False  # whether the command uses one scheme of the config's
    checkpoint: bool = False  # whether the first argument is a checkpoint to make a run of
    own_folder: bool = False  # whether that argument may also be a run's folder, and --workdir has a default


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of some commands. With `override`, the flag is short for overriding one value of the config; a `switch`
    takes no value."""

    usage: str
    help: str
    override: str | None = None
    switch: bool = False


FLAGS = {
    "method": Flag(
        "--method=METHOD",
        "static, per_token, smoothquant, hadamard, gptq, or several: 'smoothquant,alpha=0.6 + gptq'",
        "quantization.method={}",
    ),
    "scheme": Flag("--scheme=SCHEME", "one scheme, e.g. w8a8, instead of the config's", "quantization.schemes=('{}',)"),
    "ranges": Flag("--ranges=FILE", "ranges of an earlier calibration by the same method, instead of a new one"),
    "format": Flag("--format=FORMAT", "int8 (runs in integers) or huggingface (floating point)"),
    "devices": Flag("--devices=N", "devices to plan for (default: as many as config.mesh names)"),
    "distributed": Flag("--distributed", "one of many processes, on a cluster: see docs/scale.md", switch=True),
    "profile": Flag("--profile", "trace a few steps, for TensorBoard and Perfetto, to WORKDIR/profile", switch=True),
    "checkpoint": Flag("--checkpoint=WHICH", "newest (default), best (on the held-out data), or its step"),
    "thorough": Flag("--thorough", "measure every tensor on all examples (minutes to an hour)", switch=True),
    "chip": Flag("--chip=NAME", "what they are, e.g. h100-sxm or tpu-v5e"),
}


COMMANDS = {
    "plan": Command(
        summary="what training will need: memory, FLOPs, collectives; whether it fits a chip",
        description="Compiles the training step for a mesh that this machine need not have, and tells what one device\n"
        "holds and does in a step. Needs no data and no accelerator: what only the data tell is assumed, and said.",
        example="qtx plan --config=configs/opt_125m.py --devices=8 --chip=l4 --config.model.remat=full",
        config="required",
        resume="the same command starts over",
        flags=("devices", "chip"),
        workdir=False,
    ),
    "prepare": Command(
        summary="make a corpus ready on disk: tokenized and packed, or its images gathered",
        description="Writes what training reads of config.data's corpora as TFDS datasets in config.data.data_dir,\n"
        "and tells how much there is. Training does so itself at first use; prepare does it earlier, e.g. on a\n"
        "machine without an accelerator. What is there already is not made again.",
        example="qtx prepare --config=configs/wikitext2_bert.py --config.data.source=text_corpus",
        config="required",
        resume="the same command goes on after the last finished shard",
        workdir=False,
    ),
    "import": Command(
        summary="make a run of a model that you have: a Hugging Face checkpoint",
        description="CHECKPOINT is a folder with config.json, *.safetensors and the tokenizer; builtin:minilm-2l; or\n"
        "a model of the Hugging Face Hub, organization/name or organization/name@revision. WORKDIR becomes a run\n"
        "at step 0 with the checkpoint's files and tokenizer in it, on built-in data or what --config.data... names,\n"
        "so that evaluate, quantize, sensitivity and export work on it, and train starts from it (config.start).",
        example="qtx import models/all-minilm-l6-v2 --workdir=runs/minilm",
        config="none",
        resume="the same command starts over",
        checkpoint=True,
    ),
    "analyze": Command(
        summary="diagnose a model: its outliers, its idle heads, what W8A8 costs and what would save it",
        description="CHECKPOINT is a folder as for import, which becomes a run in WORKDIR (default: runs/NAME), or\n"
        "the folder of a run. Tells which tensors hold outliers, in which dimensions and at which tokens; which\n"
        "heads do nothing and where they park their attention; what fewer bits cost; what other ways would save;\n"
        "which tensors cost most. Measured on a few held-out examples of built-in data, or of what --config.data...\n"
        "names: by its task, or by how close its outputs stay to those in floating point. Writes diagnosis.json, and\n"
        "the page report.html, with figures.",
        example="qtx analyze models/all-minilm-l6-v2",
        config="none",
        resume="the same command starts over",
        flags=("thorough",),
        checkpoint=True,
        own_folder=True,
    ),
    "train": Command(
        summary="pre-train one model, or resume its training",
        description="Trains the config's model on its data. The folder gets the resolved config, metrics (JSON lines\n"
        "and TensorBoard), checkpoints, and the tokenizer. Run again, the same command goes on from the last\n"
        "checkpoint that is whole and ends with the same numbers as a run that was never interrupted. SIGTERM saves\n"
        "a checkpoint first, and exits with 0.",
        example="qtx train --config=configs/demo.py:gated_linear --workdir=runs/gated --config.training.steps=500",
        config="required",
        resume="the same command resumes from the last checkpoint",
        flags=("distributed", "profile"),
    ),
    "evaluate": Command(
        summary="measure a trained model: loss, metric, outliers",
        description="Evaluates the folder's last checkpoint on held-out data in floating point: perplexity or\n"
        "accuracy, infinity norm, kurtosis, 6-sigma outliers, attention-sink mass. Adds to results.json. The folder\n"
        "of an exported int8 model is run in integers. The data are the run's own, or what --config.data... names.",
        example="qtx evaluate --workdir=runs/gated",
        config="optional",
        resume="the same command starts over",
        flags=("checkpoint",),
    ),
    "quantize": Command(
        summary="quantize a trained model and measure what it costs",
        description="Calibrates static activation ranges on training data, quantizes to every scheme of the config\n"
        "(weight and activation bits, e.g. w8a8) and evaluates each on held-out data, beside floating point.\n"
        "Saves the ranges as ranges/<scheme>.safetensors.",
        example="qtx quantize --workdir=runs/gated --config.quantization.schemes=\"('w8a8', 'w4a8')\"",
        config="optional",
        resume="the same command starts over",
        flags=("method", "scheme", "ranges", "checkpoint"),
    ),
    "sensitivity": Command(
        summary="rank the tensors of a trained model by what quantizing them costs",
        description="Calibrates the first scheme of the config (after quantization-aware training: takes the one that\n"
        "the run was trained under), then measures the model with each weight and activation of each layer\n"
        "quantized alone, and with all quantized but it, with the tensor's signal-to-quantization-noise\n"
        "ratio, on config.quantization.sensitivity_batches held-out batches.\n"
        "Writes sensitivity.json and sensitivity.png; `qtx report` of a comparison shows them.",
        example="qtx sensitivity --workdir=runs/gated --scheme=w4a4",
        one_scheme=True,
        config="optional",
        resume="the same command starts over",
        flags=("method", "scheme", "checkpoint"),
    ),
    "export": Command(
        summary="take a trained model away: in integers, or as a Hugging Face checkpoint",
        description="int8: calibrates the first scheme of the config (after quantization-aware training: takes the\n"
        "one that the run was trained under) and writes a model whose matrix products run int8 x int8 -> int32,\n"
        "to WORKDIR/export/int8; `qtx evaluate --workdir=WORKDIR/export/int8` runs it.\n"
        "huggingface: writes config.json and model.safetensors in floating point to WORKDIR/export/huggingface.",
        example="qtx export --format=int8 --workdir=runs/gated --scheme=w8a8",
        one_scheme=True,
        config="optional",
        resume="the same command starts over",
        flags=("format", "method", "scheme", "checkpoint"),
        choice="format",
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
        resume = f": {command.resume}"
        runner(name, command, rest)()
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


def runner(name: str, command: Command, arguments: Sequence[str]) -> Callable[[], None]:
    """Parses a command's flags, reads and checks its config, and returns the command, ready to run."""
    from qtx.cli.flags import names, parse, take_flag, take_switch

    arguments = list(arguments)
    chosen: dict[str, Any] = {}
    for flag in command.flags:
        if FLAGS[flag].switch:
            chosen[flag], arguments = take_switch(arguments, flag)
            continue
        value, arguments = take_flag(arguments, flag)
        override = FLAGS[flag].override
        if value is not None and override is not None:
            arguments.append(f"--config.{override.format(value)}")
        elif value is not None:
            chosen[flag] = value
    if command.choice is not None and command.choice not in chosen:
        raise QtxError(f"{name} needs {FLAGS[command.choice].usage}: {FLAGS[command.choice].help}")
    checkpoint, arguments = take_argument(arguments, name, command) if command.checkpoint else (None, arguments)
    of_run = command.config == "optional"
    if checkpoint is not None and command.own_folder:
        checkpoint, arguments = with_folder(checkpoint, arguments)
        of_run = checkpoint is None
    base = None
    if checkpoint is not None:
        from qtx.pipeline.importing import check_attention_length, config_of_checkpoint, found  # imports jax

        chosen["source"] = found(checkpoint)
        base = config_of_checkpoint(chosen["source"], names(arguments, "data.source"))
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
    return lambda: _run(name, config, workdir, chosen)


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
    from qtx.cli.flags import take_flag
    from qtx.pipeline.analyze import folder_for, is_run

    workdir, rest = take_flag(arguments, "workdir")
    if not is_run(at_home(checkpoint)):
        return checkpoint, [*rest, f"--workdir={workdir or folder_for(checkpoint)}"]
    if workdir is not None:
        raise QtxError(f"{checkpoint} is a run's folder, where its diagnosis goes: leave --workdir out")
    return None, [*rest, f"--workdir={checkpoint}"]


def _run(name: str, config, workdir: Path | None, chosen: dict[str, Any]) -> None:
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


def program_help() -> str:
    """Returns the text that `qtx --help` prints."""
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
    """Returns the text that `qtx COMMAND --help` prints."""
    command = lookup(COMMANDS, "command", name)
    config_flags = {
        "required": "  --config=FILE[:VARIANT]  the experiment, e.g. configs/demo.py; most take an attention variant\n",
        "optional": "  --config=FILE[:VARIANT]  the experiment (default: the config that the run recorded)\n",
        "none": "",
    }[command.config]
    if config_flags:
        config_flags += f"{'':<27}(FILE:smoke and FILE:VARIANT:smoke: the same, a minute's work for a laptop)\n"
    overridable = bool(config_flags) or command.checkpoint
    overrides = (
        "  --config.KEY=VALUE       overrides one value, e.g. --config.training.steps=500\n" if overridable else ""
    )
    optional = " (default: runs/NAME, or the run's own)" if command.own_folder else ""
    folder = f"  --workdir=FOLDER         the run's folder{optional}\n" if command.workdir else ""
    choice = f" {FLAGS[command.choice].usage}" if command.choice else " CHECKPOINT" if command.checkpoint else ""
    own = "".join(f"  {FLAGS[flag].usage:<23}  {FLAGS[flag].help}\n" for flag in command.flags)
    usage = {"required": " --config=FILE", "optional": " [--config=FILE]", "none": ""}[command.config]
    workdir = " [--workdir=FOLDER]" if command.own_folder else " --workdir=FOLDER" if command.workdir else ""
    return (
        f"qtx {name}: {command.summary}.\n\n"
        f"usage: qtx {name}{choice}{usage}{workdir}"
        f"{' [--config.KEY=VALUE ...]' if overridable else ''}\n\n"
        f"{command.description}\n\n"
        f"flags:\n{config_flags}{folder}{own}{overrides}"
        f"\nexample:\n  {command.example}"
    )
