"""The command `python -m qtx.judge`, which prints a JSON line per verdict; see `qtx.judge`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

import qtx.judge
from qtx.data.reading import read_text
from qtx.data.sources.stdlib import HELD_OUT_FRACTION, split_stdlib
from qtx.foundation.errors import QtxError
from qtx.judge.verdicts import verdicts


def main(arguments: list[str]) -> int:
    """Prints the verdicts and returns 0; prints a line on stderr and returns 2 for bad input, or a package that is not
    installed."""
    parser = argparse.ArgumentParser("qtx.judge", description=(qtx.judge.__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="the original first")
    parser.add_argument("--text", help="a file of text; by default, the held-out documents of the built-in corpus")
    options = parser.parse_args(arguments)
    command = f"python -m qtx.judge {shlex.join(arguments)}"
    held_out = split_stdlib(HELD_OUT_FRACTION)[1]
    try:
        text = read_text(options.text) if options.text else "\n\n".join(document.text for document in held_out)
        for verdict in verdicts(options.folders, text):
            print(json.dumps({"command": command, **verdict}), flush=True)
    except QtxError as error:
        return told(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        return told(f"{error.filename}: {error.strerror}")
    return 0


def told(mistake: str) -> int:
    """Prints what is wrong with the input, and returns the exit code for that."""
    print(f"judge: error: {mistake}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
