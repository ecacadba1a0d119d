"""The texts that `qtx --help` and `qtx COMMAND --help` print."""

from __future__ import annotations

from qtx.cli.command_table import COMMANDS, FLAGS
from qtx.foundation.errors import lookup


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
    choice = " CHECKPOINT" if command.checkpoint else ""
    choice += f" {FLAGS[command.choice].usage}" if command.choice else ""
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
