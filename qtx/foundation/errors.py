"""Exceptions that end a command early: a user's mistake, told in one line with how to mend it, or a request to stop."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

Entry = TypeVar("Entry")
# ml_collections' message about a missing key: 'a', or: Key "a" does not exist ... Did you mean "b" ...
UNKNOWN_KEY = re.compile(r"""^(?:'(\w+)'|Key "(\w+)" does not exist.*?)(?:\s*Did you mean "(\w+)".*)?$""", re.DOTALL)


class QtxError(ValueError):
    """Bad input from the user. The command line prints the message alone and exits with code 2."""


class Preempted(Exception):
    """A run was asked to stop, has saved its state, and goes on when started again. The command line exits with 0."""


def unknown(kind: str, name: object, known: Iterable[str]) -> QtxError:
    """Makes the error that `name` is not one of the `known` names of a `kind`; it suggests the nearest one."""
    names = sorted(known)
    given = str(name)[:100]  # a file can say anything
    nearest = difflib.get_close_matches(given, names, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return QtxError(f"unknown {kind} {given!r}: {hint}expected one of {', '.join(names)}")


def lookup(registry: Mapping[str, Entry], kind: str, name: str) -> Entry:
    """Returns `registry[name]`, or raises the error that names the nearest entry."""
    if name not in registry:
        raise unknown(kind, name, registry)
    return registry[name]


def one_line(error: Exception) -> str:
    """Returns an error's message as one line, in the user's words if it is ml_collections' about an unknown key."""
    text: object = error
    while isinstance(text, Exception) and text.args:  # ml_collections wraps a KeyError in an AttributeError
        text = text.args[0]
    if match := UNKNOWN_KEY.match(str(text)):
        name, locked_name, near = match.groups()
        return f"unknown key {name or locked_name!r}" + (f": did you mean {near!r}?" if near else "")
    return " ".join(str(text).split())
