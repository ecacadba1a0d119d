"""The files of a checkpoint's folder, and the digest by which a checkpoint is recognised."""

from __future__ import annotations

import hashlib
from pathlib import Path

from qtx.interop.carried import carried_files
from qtx.interop.stored import CONFIG, open_folder
from qtx.interop.weight_files import INDEX


def files_of(folder: Path) -> list[Path]:
    """Lists the files that are kept of a checkpoint's folder: config, weights, and those of `qtx.interop.carried`."""
    weights = [folder / name for name in open_folder(folder).files]
    index = [folder / INDEX] if (folder / INDEX).is_file() else []
    return sorted([folder / CONFIG, *weights, *index, *carried_files(folder)])


def digest_of_folder(folder: Path) -> str:
    """Returns the SHA-256 of the files of a checkpoint, wherever its folder lies."""
    whole = hashlib.sha256()
    for file in files_of(folder):
        with file.open("rb") as content:
            whole.update(f"{file.relative_to(folder)} ".encode() + hashlib.file_digest(content, "sha256").digest())
    return whole.hexdigest()
