"""Bad input to a script of this folder: one line and exit code 2, as `qtx` itself has it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

from qtx.foundation.errors import QtxError

P = ParamSpec("P")


def told_in_a_line(name: str) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Makes of a QtxError, or a file that cannot be read or written, in the script's `main` the line `NAME: error: ...`
    and the exit code 2."""

    def of(main: Callable[P, int]) -> Callable[P, int]:
        @functools.wraps(main)
        def told(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except QtxError as error:
                print(f"{name}: error: {error}", file=sys.stderr)
                return 2
            except OSError as error:
                if error.filename is None:
                    raise
                print(f"{name}: error: {error.filename}: {error.strerror}", file=sys.stderr)
                return 2

        return told

    return of
