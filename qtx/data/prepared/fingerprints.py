"""The hash of many files' content, computed once; it tells whether a prepared dataset is still the right one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from qtx.foundation.errors import QtxError
from qtx.foundation.paths import at_home
from qtx.foundation.storage import write_whole

FOLDER = "qtx_fingerprints"
SHA256 = re.compile(rb"[0-9a-f]{64}")


def content_hash(files: Sequence[tuple[str, Path]], data_dir: str) -> str:
    """Returns the SHA-256 over the names and contents of files, in this order.

    The hash is kept in `data_dir` under the files' paths, sizes and times of change, so that a large corpus is read for
    it only once; a changed file has another time.

    Args:
      files: pairs of the name that is hashed, and the file's path.
      data_dir: folder of all datasets.

    Raises:
      QtxError: for a file that cannot be read.
    """
    listing, whole = hashlib.sha256(), hashlib.sha256()
    try:
        for name, path in files:
            status = path.stat()
            listing.update(repr((name, str(path.resolve()), status.st_size, status.st_mtime_ns)).encode())
        kept = at_home(data_dir) / FOLDER / listing.hexdigest()[:32]
        if kept.is_file() and SHA256.fullmatch(found := kept.read_bytes()):
            return found.decode()
        for name, path in files:
            with path.open("rb") as file:
                whole.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    except OSError as error:
        raise QtxError(f"cannot read {error.filename}: {error.strerror}") from error
    keep({kept: whole.hexdigest().encode()})
    return whole.hexdigest()


def keep(contents: Mapping[Path, bytes]) -> None:
    """Writes small files that belong together, whole or not at all (see `write_whole`).

    Raises:
      QtxError: when they cannot be written.
    """
    try:
        write_whole(contents)
    except OSError as error:
        raise QtxError(
            f"cannot write {next(iter(contents)).parent}: {error.strerror}: set data.data_dir to a folder with room"
        ) from error
