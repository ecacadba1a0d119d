"""What the environment of a command says: output that lacks characters or a reader, and settings of JAX."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from qtx.cli import environment
from qtx.cli.main import main
from qtx.foundation.console import Console, say
from qtx.foundation.output import show, show_all_characters

NANO = str(Path(__file__).parents[1] / "nano_config.py")


@pytest.mark.parametrize(("encoding", "shown"), [("cp1252", "é ?"), ("ascii", "? ?"), ("utf-8", "é ❄")])
def test_a_character_that_the_output_lacks_is_a_question_mark(encoding, shown, monkeypatch):
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding=encoding))
    show_all_characters()
    console = Console()
    say(console, "é ❄")
    console.print("é ❄")
    show("é ❄ \udce9")  # of a file's name that is no UTF-8
    assert stream.getvalue().decode(encoding) == f"{shown}\n{shown}\n{shown} ?\n"


def test_a_name_that_the_locale_cannot_spell_is_told(capsys):
    """The name is `données.txt` as Python gives it to a program in a locale of ASCII."""
    name = "données.txt".encode().decode("ascii", "surrogateescape")
    assert main(["train", f"--config={NANO}", f"--config.data.files=('{name}',)"]) == 2
    assert capsys.readouterr().err.endswith("set PYTHONUTF8=1, or rename the file\n")


def test_work_goes_on_when_nobody_reads_the_output():
    read, write = os.pipe()
    os.close(read)
    code = (
        "import sys\nfrom qtx.foundation.console import Console, say\nfrom qtx.foundation.output import show\n"
        "console = Console()\nfor _ in range(3):\n    say(console, 'x' * 10_000)\n    show('x' * 10_000)\n"
        "print('done', file=sys.stderr)"
    )
    process = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (process.returncode, process.stderr) == (0, "done\n")


def test_what_qtx_is_written_for_is_set_and_told(capsys):
    given = {"JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_ENABLE_X64": "1", "MPLBACKEND": "nonsense"}
    environment.settle(given)
    assert given == {"JAX_NUMPY_DTYPE_PROMOTION": "standard", "JAX_ENABLE_X64": "1", "MPLBACKEND": "agg"}
    told = "qtx: JAX_NUMPY_DTYPE_PROMOTION=strict is set, but qtx is written for standard: it runs with that\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (AssertionError(), "no such devices are there"),
        (RuntimeError("Unable to\ninitialize. (set JAX_PLATFORMS='')"), "Unable to initialize."),
    ],
)
def test_devices_that_are_not_there_are_told_in_a_line(raised, reason, monkeypatch, tmp_path, capsys):
    import qtx.cli.commands

    def fail(*arguments, **options):
        raise raised

    monkeypatch.setattr(qtx.cli.commands, "train", fail)
    arguments = ["train", f"--config={NANO}", f"--workdir={tmp_path}/run"]
    with pytest.raises(type(raised)):  # of a fault of qtx's own the traceback stays
        main(arguments)
    monkeypatch.setattr(jax, "devices", fail)
    for name in [name for name in os.environ if name.startswith("JAX_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert main(arguments) == 2
    expected = f"qtx: error: JAX cannot start ({reason}): unset what is wrong of JAX_PLATFORMS=cuda\n"
    assert capsys.readouterr().err == expected


def test_nonsense_in_the_environment_of_a_command(tmp_path):
    arguments = [sys.executable, "-m", "qtx", "train", f"--config={NANO}", f"--workdir={tmp_path}/run"]
    process = subprocess.run(
        arguments, capture_output=True, text=True, env={**os.environ, "JAX_ENABLE_X64": "nonsense"}
    )
    assert process.returncode == 2 and process.stderr.startswith("qtx: error: JAX cannot start (")
    assert "JAX_ENABLE_X64=nonsense" in process.stderr and process.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here is always full")
@pytest.mark.parametrize("written", ["show('a')", "say(Console(), 'a')"])
def test_output_that_cannot_be_written_is_told_in_one_line(written):
    """As on a full disk: neither a traceback, nor a second failure when Python ends."""
    code = f"""
import sys
from qtx.foundation.console import Console, say
from qtx.foundation.errors import QtxError
from qtx.foundation.output import show
try:
    {written}
except QtxError as error:
    sys.exit(str(error))
"""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "stdout cannot be written (No space left on device): send it elsewhere; no file is lost\n"
