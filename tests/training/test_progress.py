"""The progress line shows on a terminal and in a notebook, and only there."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from qtx.training.progress import ProgressLine


def output(terminal: bool, enabled: bool = True, width: int = 80) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=width, quiet=not enabled)
    with ProgressLine(250_000, enabled, console) as progress:
        progress.update(240_000, "loss 10.2500, 12.3k tokens/s, MFU 41%")
        progress.warn("attention is dead")
    return stream.getvalue()


def test_on_a_terminal():
    text = output(terminal=True)
    for part in ("240000/250000", "loss 10.2500, 12.3k tokens/s, MFU 41%", "left", "attention is dead"):
        assert part in text


def test_what_is_told_is_no_markup():
    """Tokens have brackets, and a closing one that nothing opened would raise."""
    stream = io.StringIO()
    with ProgressLine(10, console=Console(file=stream, width=80)) as progress:
        progress.warn("the token [CLS] attends to [bold] and [/x]")
    assert stream.getvalue() == "warning: the token [CLS] attends to [bold] and [/x]\n"


def test_in_a_pipe_only_warnings_show():
    assert output(terminal=False).strip() == "warning: attention is dead"


@pytest.mark.parametrize("terminal", [True, False])
def test_other_processes_are_quiet(terminal):
    assert "attention" not in output(terminal, enabled=False)


@pytest.mark.parametrize("enabled", [True, False])
def test_in_a_notebook_the_line_is_written_over(enabled, capsys):
    console = Console(file=io.StringIO(), force_jupyter=True, quiet=not enabled)
    with ProgressLine(250, console=console) as progress:
        for step in range(1, 251):
            progress.update(step, f"loss {step}.5" if step % 100 == 0 else None)
    written = capsys.readouterr().out
    lines = [line.rstrip() for line in written.split("\r")[1:]]
    assert [line.partition(",")[0] for line in lines] == [
        "1/250 compiling",
        "100/250 loss 100.5",
        "200/250 loss 200.5",
    ] * enabled
    assert written.endswith("\n") == enabled and all(len(line) < 80 for line in lines)
