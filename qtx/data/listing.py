"""The one way to list a folder, for texts and images, and to find the files that a path or a glob names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path, PurePosixPath

from qtx.foundation.errors import QtxError
from qtx.foundation.paths import at_home

BROKEN_LINK = "broken link"
ALL = sys.maxsize
"""All folders above a file, as a value of `named`."""
MACOS = "__MACOSX"
"""The folder of an archive in which macOS keeps what other systems have no place for."""


def hidden(name: str) -> bool:
    """Says whether a file belongs to a system or a tool alone: a part of its name, below a folder or in an archive,
    begins with a dot (and is not `..`) or is `__MACOSX`."""
    return any((part.startswith(".") and part != "..") or part == MACOS for part in PurePosixPath(name).parts)


def kind_of(name: str) -> str:
    """Returns the kind that a left-out file is counted as: its suffix in lower case, or, without one, its name."""
    path = PurePosixPath(name)
    return path.suffix.lower() or path.name


def printable(name: str) -> str:
    """Returns a file's name as text, with bytes that are not UTF-8 written as `\\xe9`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def entries(folder: Path, named: int = 0, depth: int | None = None) -> Iterator[tuple[str, Path]]:
    """Lists the files below a folder but for hidden ones, sorted by the parts of their names; also links that lead
    nowhere, and empty folders, whose names end with `/`.

    Links are followed, but not round a circle. A folder or file is listed once, by its first name.

    Args:
      folder: where to begin.
      named: how many folders above a file tell what the file is; it is listed again where these have other names.
      depth: how many parts a name has at most; None: any number.

    Yields:
      (name below the folder with `/` between its parts, path).

    Raises:
      QtxError: for a folder that cannot be read.
    """
    seen: set[tuple[str, ...]] = set()

    def new(real: str, above: Sequence[str]) -> bool:
        key = (real, *above[-named:]) if named else (real,)
        known = key in seen
        seen.add(key)
        return not known

    def below(path: Path, reals: tuple[str, ...], parts: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
        try:
            with os.scandir(path) as found:
                inside = sorted((entry for entry in found if not hidden(entry.name)), key=lambda entry: entry.name)
        except OSError as error:
            raise QtxError(f"cannot read folder {path}: {error.strerror}") from error
        if parts and not inside:
            yield "/".join(parts) + "/", path
        for entry in inside:
            own = (*parts, entry.name)
            target = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(reals[-1], entry.name)
            if not entry.is_dir():
                if new(target, parts):
                    yield "/".join(own), path / entry.name
            elif depth is None or len(own) < depth:
                circle = any(Path(real).is_relative_to(target) for real in reals)
                if not circle and new(target, own):
                    yield from below(path / entry.name, (*reals, target), own)

    return below(folder, (os.path.realpath(folder),), ())


def expand(patterns: Iterable[str]) -> list[str]:
    """Lists the files that paths and globs (`**` too) name, sorted, each once.

    A path that exists is taken literally, with brackets and asterisks in its name; a glob leaves hidden files out.

    Raises:
      QtxError: for a path or glob that names no file, or a link that leads nowhere.
    """
    found: dict[str, str] = {}
    for path in sorted(str(path) for pattern in patterns for path in _named(pattern)):
        found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _named(pattern: str) -> list[Path]:
    base, wanted = at_home(pattern), list[str]()
    while not base.exists():
        if base.is_symlink():
            raise QtxError(f"{base} is a link to {os.readlink(base)}, which is not there")
        base, wanted = base.parent, [base.name, *wanted]
    if not wanted and base.is_dir():
        raise QtxError(f"{pattern} is a folder: expected files; all below it are {os.path.join(pattern, '**')!r}")
    if not wanted and not base.is_file():
        raise QtxError(f"{pattern} is no file that can be read to its end")
    if not wanted:
        return [base]
    if not any(map(has_magic, wanted)):
        raise QtxError(f"there is no file {pattern!r} (in {Path.cwd()}): expected a path or glob of files")
    depth = None if "**" in wanted else len(wanted)
    listed = entries(base, named=ALL, depth=depth) if base.is_dir() else ()
    matches = [path for name, path in listed if not name.endswith("/") and _matches(name.split("/"), wanted)]
    if not matches:
        raise QtxError(f"no file matches {pattern!r}: nothing in {base.resolve()} is called {'/'.join(wanted)!r}")
    return [file for path in matches for file in _named(str(path))]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not parts or not pattern:
        return not parts and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return (parts[0] == pattern[0] or fnmatchcase(parts[0], pattern[0])) and _matches(parts[1:], pattern[1:])
