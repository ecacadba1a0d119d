"""What a checkpoint's folder holds, and by which it is known again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from qtx.interop.carried import carried_files
from qtx.interop.stored import CONFIG, open_folder
from qtx.interop.weight_files import INDEX


def files_of(folder: Path) -> list[Path]:
    """What is kept of a checkpoint's folder: config, weights, and what goes with them (`qtx.interop.carried`)."""
    weights = [folder / name for name in open_folder(folder).files]
    index = [folder / INDEX] if (folder / INDEX).is_file() else []
    return sorted([folder / CONFIG, *weights, *index, *carried_files(folder)])


def digest_of_folder(folder: Path) -> str:
    """SHA-256 of the files of a checkpoint, wherever it lies."""
    whole = hashlib.sha256()
    for file in files_of(folder):
        with file.open("rb") as content:
            whole.update(f"{file.relative_to(folder)} ".encode() + hashlib.file_digest(content, "sha256").digest())
    return whole.hexdigest()
